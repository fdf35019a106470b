// SPDX-License-Identifier: MIT
#pragma once
/// Rows of activations as wide numbers and back: the entrance and the exit of every fast kernel.
///
/// W is the executor's wide type.  Sums over a row run in eight lanes (element k in lane k mod 8), then a
/// fixed tree: one canonical order, so that nothing depends on threads, batch or chunks.
#include <array>
#include <cstring>

#include "../core/view.hpp"
#include "../num/round.hpp"

namespace dsv4::cpu {

/// Rows per task so that a task is worth starting: about 2^14 element operations.
constexpr index_t rows_per_task(index_t operations_per_row) {
  return operations_per_row >= (index_t{1} << 14) ? 1 : (index_t{1} << 14) / (operations_per_row + 1) + 1;
}

inline constexpr index_t sum_lanes = 8;  // one AVX2 register of floats, two of doubles

/// y[k] = x[k], exact.
template <class W, class A>
void widen_row(const A* x, index_t n, W* y) {
  for (index_t k = 0; k < n; ++k) y[k] = widen<W>(x[k]);
}
/// y[k] = store(x[k]): one rounding.
template <class W, class A>
void store_row(const W* x, index_t n, A* y) {
  for (index_t k = 0; k < n; ++k) y[k] = store<A>(x[k]);
}

/// ((0+4) + (2+6)) + ((1+5) + (3+7))
template <class W>
W tree_sum(const std::array<W, sum_lanes>& s) {
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/// sum_k f(k) over eight lanes.
template <class W, class F>
W lane_sum(index_t n, F f) {
  std::array<W, sum_lanes> s{};
  index_t k = 0;
  for (; k + sum_lanes <= n; k += sum_lanes)
    for (index_t j = 0; j < sum_lanes; ++j) s[static_cast<std::size_t>(j)] += f(k + j);
  for (index_t j = 0; k + j < n; ++j) s[static_cast<std::size_t>(j)] += f(k + j);
  return tree_sum(s);
}

/// sum of x^2
template <class W>
W squares(const W* x, index_t n) {
  return lane_sum<W>(n, [x](index_t k) { return x[k] * x[k]; });
}

}  // namespace dsv4::cpu
