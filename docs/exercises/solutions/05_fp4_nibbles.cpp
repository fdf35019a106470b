std::vector<double> unpack_fp4(const std::vector<unsigned>& bytes) {
  const double magnitude[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  std::vector<double> out;
  for (const unsigned byte : bytes)
    for (const unsigned code : {byte & 15, byte >> 4})
      out.push_back((code & 8 ? -1.0 : 1.0) * magnitude[code & 7]);
  return out;
}
