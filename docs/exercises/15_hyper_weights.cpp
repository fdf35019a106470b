// SPDX-License-Identifier: MIT
// Exercise 15: Weights to read and to write.
//
// From a packed mix with learned scale alpha and static part base: the weight to read a stream is
// sigmoid(alpha mix + base) + eps; the weight to write it is 2 sigmoid(alpha mix + base), without eps. Return
// both.
//
// To read: include/dsv4/mhc/sinkhorn.hpp.  To check: docs/exercises/check.py 15

#include "exercise.hpp"

#include <array>

#include <dsv4/num/formulas.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> pre_and_post(double mix, double alpha, double base, double eps) {
  throw exercise::unsolved();
}
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (int i = 0; i < 100; ++i) {
    const double mix = 5 * draw.next(), alpha = draw.next(), base = 2 * draw.next();
    cases.push_back(
        {"mix, alpha, base = " + text_of({mix, alpha, base}),
         [=] { return list{dsv4::hyper_pre(mix, alpha, base, 1e-6), dsv4::hyper_post(mix, alpha, base)}; },
         [=] { return pre_and_post(mix, alpha, base, 1e-6); }});
  }
  return exercise::check("15 Weights to read and to write", cases, 1e-14);
}
