// SPDX-License-Identifier: MIT
// Exercise 8: The angle at a million.
//
// The released code multiplies position and frequency in FLOAT, and so must everybody who wants its bits: at a
// million the rounding of that product moves the angle visibly. Give the angle as it rounds it, as a double.
//
// To read: include/dsv4/op/rope.hpp.  To check: docs/exercises/check.py 8

#include "exercise.hpp"

#include <array>

#include <dsv4/num/formulas.hpp>

using list = std::vector<double>;

// ---- yours
double angle_of(long long position, float frequency) { throw exercise::unsolved(); }
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  for (const long long position : {0ll, 1ll, 127ll, 65536ll, 999999ll, 1048575ll})
    for (const float frequency : {1.0f, 0.7498942f, 1.3335214e-3f, 6.25e-7f})
      cases.push_back({"position " + std::to_string(position) + ", frequency " + std::to_string(frequency),
                       [=] { return list{double(dsv4::rotary_angle(position, frequency))}; },
                       [=] { return list{angle_of(position, frequency)}; }});
  return exercise::check("8 The angle at a million", cases);
}
