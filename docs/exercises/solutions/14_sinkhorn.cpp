std::vector<double> sinkhorn_of(std::vector<double> comb, std::size_t n, int iterations, double eps) {
  const auto over_i = [&] {
    for (std::size_t j = 0; j < n; ++j) {
      double sum = eps;
      for (std::size_t i = 0; i < n; ++i) sum += comb[i * n + j];
      for (std::size_t i = 0; i < n; ++i) comb[i * n + j] /= sum;
    }
  };
  for (std::size_t i = 0; i < n; ++i) {
    double largest = -INFINITY, sum = 0;
    for (std::size_t j = 0; j < n; ++j) largest = std::max(largest, comb[i * n + j]);
    for (std::size_t j = 0; j < n; ++j) sum += comb[i * n + j] = std::exp(comb[i * n + j] - largest);
    for (std::size_t j = 0; j < n; ++j) comb[i * n + j] = comb[i * n + j] / sum + eps;
  }
  over_i();
  for (int k = 1; k < iterations; ++k) {
    for (std::size_t i = 0; i < n; ++i) {
      double sum = eps;
      for (std::size_t j = 0; j < n; ++j) sum += comb[i * n + j];
      for (std::size_t j = 0; j < n; ++j) comb[i * n + j] /= sum;
    }
    over_i();
  }
  return comb;
}
