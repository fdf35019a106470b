std::vector<double> pre_and_post(double mix, double alpha, double base, double eps) {
  const double s = 1 / (1 + std::exp(-(alpha * mix + base)));
  return {s + eps, 2 * s};
}
