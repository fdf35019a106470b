std::vector<double> route(const std::vector<double>& logits, const std::vector<double>& bias, std::size_t k,
                          double scaling) {
  std::vector<double> affinity, out;
  for (const double x : logits) affinity.push_back(std::sqrt(x > 20 ? x : std::log1p(std::exp(x))));
  std::vector<bool> taken(logits.size());
  double sum = 0;
  for (std::size_t j = 0; j < k; ++j) {
    std::size_t best = logits.size();
    for (std::size_t e = 0; e < logits.size(); ++e)
      if (!taken[e] && (best == logits.size() || affinity[e] + bias[e] > affinity[best] + bias[best]))
        best = e;
    taken[best] = true;
    sum += affinity[best];
    out.push_back(double(best));
  }
  for (std::size_t j = 0; j < k; ++j) out.push_back(affinity[std::size_t(out[j])] / sum * scaling);
  return out;
}
