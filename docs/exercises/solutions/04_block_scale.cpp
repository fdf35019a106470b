double scale_of(const std::vector<double>& block) {
  double amax = 1e-4;
  for (const double x : block) amax = std::max(amax, std::fabs(x));
  int exponent = 0;
  const double fraction = std::frexp(amax / 448, &exponent);  // in [1/2, 1): a power of two has 1/2
  return std::ldexp(1.0, fraction == 0.5 ? exponent - 1 : exponent);
}
