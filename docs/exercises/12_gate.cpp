// SPDX-License-Identifier: MIT
// Exercise 12: Which experts, and with what weight.
//
// Affinity of an expert is sqrt(softplus(logit)), with softplus(x) = x above 20. The k experts of the largest
// affinity + bias are chosen, ties to the lower number; their weights are the affinities WITHOUT the bias,
// divided by their sum, times `scaling`. Return the k numbers, then the k weights.
//
// To read: include/dsv4/moe/gate.hpp.  To check: docs/exercises/check.py 12

#include "exercise.hpp"

#include <array>

#include <dsv4/num/formulas.hpp>
#include <dsv4/op/top_k.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> route(const std::vector<double>& logits, const std::vector<double>& bias, std::size_t k,
                          double scaling) {
  throw exercise::unsolved();
}
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (int i = 0; i < 60; ++i) {
    list logits = draw.row(16, 12), bias = draw.row(16, 0.5);
    if (i % 3 == 0) logits[7] = logits[2], bias[7] = bias[2];  // a tie
    if (i % 4 == 0) logits[5] = 25;
    cases.push_back({"logits " + text_of(logits),
                     [=] {
                       list affinity, biased, out;
                       for (const double x : logits) affinity.push_back(dsv4::gate_affinity(x));
                       for (std::size_t e = 0; e < 16; ++e) biased.push_back(affinity[e] + bias[e]);
                       std::vector<std::int32_t> order(16), chosen(4);
                       dsv4::top_k(std::span<const double>(biased), std::span(order), std::span(chosen));
                       double sum = 0;
                       for (const auto e : chosen) sum += affinity[std::size_t(e)];
                       for (const auto e : chosen) out.push_back(e);
                       for (const auto e : chosen)
                         out.push_back(dsv4::gate_weight(affinity[std::size_t(e)], sum, 1.5));
                       return out;
                     },
                     [=] { return route(logits, bias, 4, 1.5); }});
  }
  return exercise::check("12 Which experts, and with what weight", cases, 1e-13);
}
