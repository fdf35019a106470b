// SPDX-License-Identifier: MIT
// Exercise 3: One rounding to bf16.
//
// A store to bf16 rounds a double ONCE, to the nearest with ties to even. Going through float first rounds
// twice, and is wrong where the first rounding lands on a tie of the second: the cases are such numbers. (You
// may assume normal, finite numbers.)
//
// To read: include/dsv4/num/round.hpp.  To check: docs/exercises/check.py 3

#include "exercise.hpp"

#include <array>

#include <dsv4/num/round.hpp>

using list = std::vector<double>;

// ---- yours
double store_bf16(double x) { throw exercise::unsolved(); }
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (int i = 0; i < 200; ++i) {
    const double step = std::ldexp(1.0, -7), tie = 1 + step * (i % 128) + step / 2;
    for (const double x :
         {tie, tie + std::ldexp(1.0, -40), tie - std::ldexp(1.0, -40), -tie, 3.0 * draw.next()})
      cases.push_back({std::to_string(x), [=] { return list{dsv4::to_double(dsv4::round_bf16(x))}; },
                       [=] { return list{store_bf16(x)}; }});
  }
  return exercise::check("3 One rounding to bf16", cases);
}
