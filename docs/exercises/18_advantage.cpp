// SPDX-License-Identifier: MIT
// Exercise 18: Advantages of a group.
//
// GRPO: an answer's advantage is its reward minus the mean of its group, divided by the standard deviation of
// the group (n - 1 in its denominator) plus 1e-4. A reward that is NaN was not given: it counts for neither,
// and its advantage is 0.
//
// To read: include/dsv4/post/advantage.hpp.  To check: docs/exercises/check.py 18

#include "exercise.hpp"

#include <array>

#include <dsv4/post/advantage.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> group_advantages(std::vector<double> rewards) { throw exercise::unsolved(); }
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (int i = 0; i < 40; ++i) {
    list rewards = draw.row(8);
    if (i % 4 == 1) rewards[3] = NAN;
    if (i % 4 == 2) rewards.assign(8, 0.5);
    cases.push_back(
        {text_of(rewards),
         [=] { return dsv4::post::advantages(dsv4::view<const double, 2>(rewards.data(), 8, 1), 8); },
         [=] { return group_advantages(rewards); }});
  }
  return exercise::check("18 Advantages of a group", cases, 1e-12);
}
