// SPDX-License-Identifier: MIT
// Exercise 5: FP4 out of a byte.
//
// A byte holds two e2m1 codes, the LOW nibble first. e2m1 is a sign, 2 bits of exponent with bias 1, 1 bit of
// mantissa: the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6. Unpack bytes to twice as many values.
//
// To read: include/dsv4/num/block_scaled.hpp.  To check: docs/exercises/check.py 5

#include "exercise.hpp"

#include <array>

#include <dsv4/num/minifloat.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> unpack_fp4(const std::vector<unsigned>& bytes) { throw exercise::unsolved(); }
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::vector<unsigned> bytes{byte, 255 - byte};
    cases.push_back({"bytes " + std::to_string(byte) + ", " + std::to_string(255 - byte),
                     [=] {
                       list out;
                       for (const unsigned b : bytes)
                         for (const unsigned code : {b & 15, b >> 4})
                           out.push_back(dsv4::e2m1::from_bits(code).decode());
                       return out;
                     },
                     [=] { return unpack_fp4(bytes); }});
  }
  return exercise::check("5 FP4 out of a byte", cases);
}
