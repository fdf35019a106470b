// SPDX-License-Identifier: MIT
// Exercise 9: Frequencies with YaRN.
//
// Pair i of rd channels turns by base^(-2i/rd). YaRN divides the slow pairs by `factor`, keeps the fast ones,
// and ramps linearly between the pairs that make 32 (beta_fast) and 1 (beta_slow) turns over the original
// 65536 tokens: low = floor, high = ceil of rd ln(65536 / (turns 2 pi)) / (2 ln base). Here rd = 64, base =
// 160000, factor = 16.
//
// To read: include/dsv4/op/rope.hpp.  To check: docs/exercises/check.py 9

#include "exercise.hpp"

#include <array>

#include <dsv4/op/rope.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> frequencies() { throw exercise::unsolved(); }
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  cases.push_back({"rd 64, base 160000, factor 16",
                   [] {
                     const dsv4::yarn_config yarn;
                     const auto f = dsv4::rotary_frequencies(160000, 64, &yarn);
                     list out;
                     for (dsv4::index_t i = 0; i < 32; ++i) out.push_back(f[i]);
                     return out;
                   },
                   [] { return frequencies(); }});
  return exercise::check("9 Frequencies with YaRN", cases, 1e-6);
}
