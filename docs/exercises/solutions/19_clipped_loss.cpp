std::vector<double> loss_and_slope(double r, double A) {
  const double clipped = std::max(0.8, std::min(1.28, r));
  const bool inside = r >= 0.8 && r <= 1.28;
  return {-std::min(r * A, clipped * A), r * A < clipped * A || inside ? -A : 0.0};
}
