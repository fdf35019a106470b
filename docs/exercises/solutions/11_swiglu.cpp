double swiglu(double a, double u, double limit, double weight) {
  a = std::min(a, limit);
  u = std::max(-limit, std::min(limit, u));
  return a / (1 + std::exp(-a)) * u * weight;
}
