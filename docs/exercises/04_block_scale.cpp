// SPDX-License-Identifier: MIT
// Exercise 4: The scale of a block.
//
// Activations are quantised in blocks with one power-of-two scale: the smallest power of two that is not below
// max(amax, 1e-4) / 448. A logarithm in floating point may be off by one exactly at powers of two; the
// exponent of the number is not.
//
// To read: include/dsv4/op/act_quant.hpp.  To check: docs/exercises/check.py 4

#include "exercise.hpp"

#include <array>

#include <dsv4/op/act_quant.hpp>

using list = std::vector<double>;

// ---- yours
double scale_of(const std::vector<double>& block) { throw exercise::unsolved(); }
// ---- to here

int main() {
  using exercise::text_of;
  std::vector<exercise::one_case> cases;
  for (int e = -30; e < 30; ++e)
    for (const double amax :
         {448 * std::ldexp(1.0, e), 448 * std::ldexp(1.0, e) * (1 + 1e-15), 300 * std::ldexp(1.0, e)}) {
      const list block{0.1 * amax, -amax, 0.5 * amax};
      cases.push_back(
          {text_of(block),
           [=] { return list{dsv4::block_scale(block.data(), 3, dsv4::e4m3_max, dsv4::fp8_amax_floor)}; },
           [=] { return list{scale_of(block)}; }});
    }
  return exercise::check("4 The scale of a block", cases);
}
