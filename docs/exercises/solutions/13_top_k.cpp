std::vector<double> largest(const std::vector<double>& x, std::size_t k) {
  std::vector<double> out;
  std::vector<bool> taken(x.size());
  for (std::size_t j = 0; j < std::min(k, x.size()); ++j) {
    std::size_t best = x.size();
    for (std::size_t i = 0; i < x.size(); ++i)
      if (!taken[i] && (best == x.size() || x[i] > x[best])) best = i;
    taken[best] = true;
    out.push_back(double(best));
  }
  return out;
}
