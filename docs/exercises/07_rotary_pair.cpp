// SPDX-License-Identifier: MIT
// Exercise 7: Turning a pair, and turning it back.
//
// RoPE turns the interleaved pair (a, b) as the complex number a + ib by an angle; the output of attention is
// turned back by the same angle. Give the pair turned by +angle (forward) or -angle.
//
// To read: include/dsv4/op/rope.hpp.  To check: docs/exercises/check.py 7

#include "exercise.hpp"

#include <array>

#include <dsv4/num/formulas.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> turn(double a, double b, double angle, bool forward) { throw exercise::unsolved(); }
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (int i = 0; i < 100; ++i) {
    const double a = draw.next(), b = draw.next(), angle = 10 * draw.next();
    for (const bool forward : {true, false})
      cases.push_back({"a, b, angle = " + text_of({a, b, angle}) + (forward ? "" : ", back"),
                       [=] {
                         const auto p = dsv4::rotate_pair(a, b, std::cos(angle),
                                                          forward ? std::sin(angle) : -std::sin(angle));
                         return list{p.even, p.odd};
                       },
                       [=] { return turn(a, b, angle, forward); }});
  }
  return exercise::check("7 Turning a pair, and turning it back", cases, 1e-14);
}
