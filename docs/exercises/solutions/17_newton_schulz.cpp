double singular_value_after(double s) {
  for (int k = 0; k < 10; ++k) {
    const double a = k < 8 ? 3.4445 : 2, b = k < 8 ? -4.7750 : -1.5, c = k < 8 ? 2.0315 : 0.5;
    s = a * s + b * s * s * s + c * s * s * s * s * s;
  }
  return s;
}
