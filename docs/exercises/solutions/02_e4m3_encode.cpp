unsigned encode_e4m3(double x) {
  unsigned best = 0;
  double distance = INFINITY;
  for (unsigned code = 0; code < 127; ++code) {
    const int exponent = static_cast<int>(code >> 3), mantissa = static_cast<int>(code & 7);
    const double value = exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
    const double d = std::fabs(std::fabs(x) - value);
    if (d < distance || (d == distance && code % 2 == 0)) best = code, distance = d;
  }
  return best | (std::signbit(x) ? 128u : 0u);
}
