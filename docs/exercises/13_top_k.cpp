// SPDX-License-Identifier: MIT
// Exercise 13: Ties.
//
// The k largest values by falling value; equal values by rising index. (The released code leaves ties open; a
// reference must not.) Return indices.
//
// To read: include/dsv4/op/top_k.hpp.  To check: docs/exercises/check.py 13

#include "exercise.hpp"

#include <array>

#include <dsv4/op/top_k.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> largest(const std::vector<double>& x, std::size_t k) { throw exercise::unsolved(); }
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (int i = 0; i < 100; ++i) {
    list x = draw.row(1 + i % 20);
    for (double& v : x) v = std::round(4 * v);  // many ties
    cases.push_back({text_of(x),
                     [=] {
                       std::vector<std::int32_t> order(x.size()), chosen(std::min<std::size_t>(6, x.size()));
                       dsv4::top_k(std::span<const double>(x), std::span(order), std::span(chosen));
                       return list(chosen.begin(), chosen.end());
                     },
                     [=] { return largest(x, 6); }});
  }
  return exercise::check("13 Ties", cases);
}
