std::vector<double> frequencies() {
  const double rd = 64, base = 160000, factor = 16, original = 65536;
  const auto pair_of = [&](double turns) {
    return rd * std::log(original / (turns * 2 * std::acos(-1.0))) / (2 * std::log(base));
  };
  const double low = std::floor(pair_of(32)), high = std::ceil(pair_of(1));
  std::vector<double> out;
  for (int i = 0; i < 32; ++i) {
    const double f = std::pow(base, -2 * i / rd),
                 ramp = std::min(1.0, std::max(0.0, (i - low) / (high - low)));
    out.push_back(f / factor * ramp + f * (1 - ramp));
  }
  return out;
}
