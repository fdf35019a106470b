std::vector<double> hadamard_of(std::vector<double> x) {
  const std::size_t n = x.size();
  std::vector<double> y(n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) y[i] += __builtin_popcountll(i & j) % 2 ? -x[j] : x[j];
  for (double& v : y) v /= std::sqrt(double(n));
  return y;
}
