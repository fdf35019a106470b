// SPDX-License-Identifier: MIT
// Exercise 1: The value of an FP8 code.
//
// e4m3 is a sign, 4 bits of exponent with bias 7, and 3 bits of mantissa; exponent 0 is subnormal. There is no
// infinity: only the code whose seven bits after the sign are all ones is NaN.
//
// To read: include/dsv4/num/minifloat.hpp.  To check: docs/exercises/check.py 1

#include "exercise.hpp"

#include <array>

#include <dsv4/num/minifloat.hpp>

using list = std::vector<double>;

// ---- yours
double decode_e4m3(unsigned code) { throw exercise::unsolved(); }
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  for (unsigned code = 0; code < 256; ++code)
    cases.push_back({"code " + std::to_string(code),
                     [=] { return list{dsv4::e4m3::from_bits(code).decode()}; },
                     [=] { return list{decode_e4m3(code)}; }});
  return exercise::check("1 The value of an FP8 code", cases);
}
