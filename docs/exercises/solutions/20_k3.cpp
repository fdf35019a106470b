std::vector<double> k3_and_slope(double log_p, double log_ref) {
  const double u = log_ref - log_p;
  return {std::exp(u) - u - 1, 1 - std::exp(u)};
}
