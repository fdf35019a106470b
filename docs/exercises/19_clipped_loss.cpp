// SPDX-License-Identifier: MIT
// Exercise 19: The clipped loss of a policy.
//
// loss = -min(r A, clamp(r, 1 - 0.2, 1 + 0.28) A) of a probability ratio r and an advantage A. Return the loss
// and its derivative by r (at a tie inside the bounds both branches are the same line).
//
// To read: include/dsv4/post/policy_loss.hpp.  To check: docs/exercises/check.py 19

#include "exercise.hpp"

#include <array>

#include <dsv4/post/policy_loss.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> loss_and_slope(double r, double A) { throw exercise::unsolved(); }
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (int i = 0; i < 200; ++i) {
    const double r = 1 + 0.7 * draw.next(), A = 2 * draw.next();
    cases.push_back({"r, A = " + text_of({r, A}),
                     [=] {
                       const auto l = dsv4::post::clipped_loss(r, A, {.low = 0.2, .high = 0.28});
                       return list{l.loss, l.dratio};
                     },
                     [=] { return loss_and_slope(r, A); }});
  }
  return exercise::check("19 The clipped loss of a policy", cases, 1e-14);
}
