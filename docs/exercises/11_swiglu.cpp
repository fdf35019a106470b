// SPDX-License-Identifier: MIT
// Exercise 11: SwiGLU with clamps.
//
// silu(a) u, where the gate branch a is first capped at `limit` from above ONLY and the linear branch u is
// clamped on both sides; then multiplied with the routing weight, before the second product. silu(x) = x / (1
// + e^-x).
//
// To read: include/dsv4/op/swiglu.hpp.  To check: docs/exercises/check.py 11

#include "exercise.hpp"

#include <array>

#include <dsv4/num/formulas.hpp>

using list = std::vector<double>;

// ---- yours
double swiglu(double a, double u, double limit, double weight) { throw exercise::unsolved(); }
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (int i = 0; i < 200; ++i) {
    const double a = 30 * draw.next(), u = 30 * draw.next(), weight = 0.5 + 0.4 * draw.next();
    cases.push_back({"a, u, weight = " + text_of({a, u, weight}),
                     [=] { return list{dsv4::swiglu_value(a, u, 10.0, weight)}; },
                     [=] { return list{swiglu(a, u, 10, weight)}; }});
  }
  return exercise::check("11 SwiGLU with clamps", cases, 1e-14);
}
