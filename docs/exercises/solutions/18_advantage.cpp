std::vector<double> group_advantages(std::vector<double> rewards) {
  double sum = 0, squares = 0, n = 0;
  for (const double r : rewards)
    if (!std::isnan(r)) sum += r, ++n;
  for (const double r : rewards)
    if (!std::isnan(r)) squares += (r - sum / n) * (r - sum / n);
  for (double& r : rewards)
    r = std::isnan(r) || n < 2 ? 0 : (r - sum / n) / (std::sqrt(squares / (n - 1)) + 1e-4);
  return rewards;
}
