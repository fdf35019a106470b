// SPDX-License-Identifier: MIT
// Exercise 2: The nearest FP8 code.
//
// Round a finite number to the code of the nearest e4m3 value, ties to the even mantissa, and saturate at 448.
// The sign of zero stays.
//
// To read: include/dsv4/num/minifloat.hpp.  To check: docs/exercises/check.py 2

#include "exercise.hpp"

#include <array>

#include <dsv4/num/minifloat.hpp>

using list = std::vector<double>;

// ---- yours
unsigned encode_e4m3(double x) { throw exercise::unsolved(); }
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  for (unsigned code = 0; code + 1 < 127; ++code)
    for (const double between : {0.0, 0.25, 0.5, 0.75})
      for (const double sign : {1.0, -1.0}) {
        const double low = dsv4::e4m3::from_bits(code).decode(),
                     high = dsv4::e4m3::from_bits(code + 1).decode();
        const double x = sign * (low + between * (high - low));
        cases.push_back({std::to_string(x), [=] { return list{double(dsv4::e4m3::encode(x).bits)}; },
                         [=] { return list{double(encode_e4m3(x))}; }});
      }
  cases.push_back({"1e9", [] { return list{double(dsv4::e4m3::encode(1e9).bits)}; },
                   [] { return list{double(encode_e4m3(1e9))}; }});
  return exercise::check("2 The nearest FP8 code", cases);
}
