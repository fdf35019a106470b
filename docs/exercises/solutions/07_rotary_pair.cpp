std::vector<double> turn(double a, double b, double angle, bool forward) {
  const double c = std::cos(angle), s = forward ? std::sin(angle) : -std::sin(angle);
  return {a * c - b * s, a * s + b * c};
}
