// SPDX-License-Identifier: MIT
// Exercise 14: Sinkhorn, in the right order.
//
// comb[i][j] from logits: softmax over j, plus eps; then divide by the sums over i (+ eps); then (iterations -
// 1) times: divide by the sums over j (+ eps), then by the sums over i (+ eps). Columns end exact, rows only
// nearly. n x n, row-major.
//
// To read: include/dsv4/mhc/sinkhorn.hpp.  To check: docs/exercises/check.py 14

#include "exercise.hpp"

#include <array>

#include <dsv4/mhc/sinkhorn.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> sinkhorn_of(std::vector<double> comb, std::size_t n, int iterations, double eps) {
  throw exercise::unsolved();
}
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (const int iterations : {1, 2, 20})
    for (int i = 0; i < 10; ++i) {
      const list logits = draw.row(16, 4);
      cases.push_back({std::to_string(iterations) + " iterations, logits " + text_of(logits),
                       [=] {
                         list comb = logits;
                         dsv4::sinkhorn(dsv4::view<double, 2>(comb.data(), 4, 4), iterations, 1e-6);
                         return comb;
                       },
                       [=] { return sinkhorn_of(logits, 4, iterations, 1e-6); }});
    }
  return exercise::check("14 Sinkhorn, in the right order", cases, 1e-12);
}
