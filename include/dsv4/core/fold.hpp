// SPDX-License-Identifier: MIT
#pragma once
/// Sums, and whatever else is put together from many terms, in one fixed order that is also a fast one.
#include <functional>

#include "view.hpp"

namespace dsv4 {

/// Joins term(0) … term(n - 1) in four times eight interleaved parts.  Compilers turn this order into vector code, and
/// the four independent chains hide the latency of an addition.  `first` is the neutral element of the joining.
template <class T, class Term, class Join = std::plus<T>>
T fold(index_t n, T first, Term term, Join join = {}) {
  constexpr index_t vectors = 4, lanes = 8, all = vectors * lanes;
  T part[vectors][lanes];
  for (auto& p : part)
    for (T& lane : p) lane = first;
  index_t k = 0;
  for (; k + all <= n; k += all)
    for (index_t v = 0; v < vectors; ++v)
      for (index_t i = 0; i < lanes; ++i) part[v][i] = join(part[v][i], term(k + v * lanes + i));
  for (; k + lanes <= n; k += lanes)
    for (index_t i = 0; i < lanes; ++i) part[0][i] = join(part[0][i], term(k + i));
  T eight[lanes];
  for (index_t i = 0; i < lanes; ++i)
    eight[i] = join(join(part[0][i], part[1][i]), join(part[2][i], part[3][i]));
  for (index_t i = 0; k + i < n; ++i) eight[i] = join(eight[i], term(k + i));
  T four[4];
  for (index_t i = 0; i < 4; ++i) four[i] = join(eight[i], eight[i + 4]);
  return join(join(four[0], four[2]), join(four[1], four[3]));
}

}  // namespace dsv4
