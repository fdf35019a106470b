// SPDX-License-Identifier: MIT
// Exercise 20: An estimate of the distance.
//
// k3 estimates KL from one token: with u = log p_ref - log p it is e^u - u - 1, never negative. Return it and
// its derivative by log p.
//
// To read: include/dsv4/post/kl.hpp.  To check: docs/exercises/check.py 20

#include "exercise.hpp"

#include <array>

#include <dsv4/post/kl.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> k3_and_slope(double log_p, double log_ref) { throw exercise::unsolved(); }
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (int i = 0; i < 100; ++i) {
    const double lp = -2 + 2 * draw.next(), ref = -2 + 2 * draw.next();
    cases.push_back({"log p, log ref = " + text_of({lp, ref}),
                     [=] {
                       const auto k = dsv4::post::k3(lp, ref);
                       return list{k.value, k.dlp};
                     },
                     [=] { return k3_and_slope(lp, ref); }});
  }
  return exercise::check("20 An estimate of the distance", cases, 1e-13);
}
