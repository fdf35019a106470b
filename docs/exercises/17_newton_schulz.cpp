// SPDX-License-Identifier: MIT
// Exercise 17: Newton-Schulz on a singular value.
//
// Muon's iteration acts on every singular value s by itself: s <- a s + b s^3 + c s^5, eight times with
// (3.4445, -4.7750, 2.0315), then twice with (2, -1.5, 0.5). What does s become?
//
// To read: include/dsv4/optim/newton_schulz.hpp.  To check: docs/exercises/check.py 17

#include "exercise.hpp"

#include <array>

#include <dsv4/optim/newton_schulz.hpp>

using list = std::vector<double>;

// ---- yours
double singular_value_after(double s) { throw exercise::unsolved(); }
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  for (const double s : {1.0, 0.5, 0.1, 0.01, 1e-3, 3e-4, 1e-4, 0.0})
    cases.push_back({std::to_string(s),
                     [=] {
                       double x = s;
                       for (const auto& p : dsv4::hybrid_newton_schulz)
                         for (int k = 0; k < p.steps; ++k)
                           x = p.a * x + p.b * x * x * x + p.c * x * x * x * x * x;
                       return list{x};
                     },
                     [=] { return list{singular_value_after(s)}; }});
  return exercise::check("17 Newton-Schulz on a singular value", cases, 1e-12);
}
