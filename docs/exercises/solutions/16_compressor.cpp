std::vector<double> entries(const std::vector<std::array<double, 2>>& kv,
                            const std::vector<std::array<double, 2>>& score) {
  std::vector<double> out;
  for (std::size_t own = 0; own + 4 <= kv.size(); own += 4) {
    double largest = -INFINITY, weights = 0, sum = 0;
    const std::size_t begin = own ? own - 4 : own;
    for (std::size_t p = begin; p < own + 4; ++p) largest = std::max(largest, score[p][p >= own]);
    for (std::size_t p = begin; p < own + 4; ++p) {
      const double w = std::exp(score[p][p >= own] - largest);
      weights += w;
      sum += w * kv[p][p >= own];
    }
    out.push_back(sum / weights);
  }
  return out;
}
