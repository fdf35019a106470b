std::vector<double> norm(std::vector<double> x, std::vector<double> w, double eps) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double r = 1 / std::sqrt(squares / double(x.size()) + eps);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = dsv4::to_double(dsv4::store<dsv4::bf16>(x[i] * r * w[i]));
  return x;
}
