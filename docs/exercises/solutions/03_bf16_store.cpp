double store_bf16(double x) {
  if (x == 0) return x;
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);         // |fraction| in [1/2, 1)
  const double scaled = std::ldexp(fraction, 8);            // 8 bits before the point
  return std::ldexp(std::nearbyint(scaled), exponent - 8);  // nearbyint: ties to even
}
