// SPDX-License-Identifier: MIT
// Exercise 16: One channel of a CSA entry.
//
// Entry i of CSA pools, per channel, eight tokens: the four of block i - 1 with the LOW half of their
// channels, the four of block i with the HIGH half. Given kv[token] = {low, high} and score[token] = {low,
// high} of one channel (score has its positional bias already), return all complete entries: the mean of kv
// weighted by the softmax of score. Entry 0 has only its own four.
//
// To read: include/dsv4/attn/compressor.hpp.  To check: docs/exercises/check.py 16

#include "exercise.hpp"

#include <array>

#include <dsv4/num/formulas.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> entries(const std::vector<std::array<double, 2>>& kv,
                            const std::vector<std::array<double, 2>>& score) {
  throw exercise::unsolved();
}
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (const std::size_t tokens : {3u, 4u, 7u, 8u, 12u, 17u}) {
    std::vector<std::array<double, 2>> kv(tokens), score(tokens);
    for (auto& v : kv) v = {draw.next(), draw.next()};
    for (auto& v : score) v = {3 * draw.next(), 3 * draw.next()};
    cases.push_back({std::to_string(tokens) + " tokens",
                     [=] {
                       list out;
                       for (std::size_t own = 0; own + 4 <= tokens; own += 4)
                         out.push_back(dsv4::softmax_mean<double>([&](auto f) {
                                         for (std::size_t p = own ? own - 4 : own; p < own + 4; ++p)
                                           f(score[p][p >= own], kv[p][p >= own]);
                                       }).mean);
                       return out;
                     },
                     [=] { return entries(kv, score); }});
  }
  return exercise::check("16 One channel of a CSA entry", cases, 1e-14);
}
