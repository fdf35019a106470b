// SPDX-License-Identifier: MIT
#pragma once
/// Sinkhorn, backward: through all 2 * 20 - 1 normalisations, and the softmax they begin with.
/// @paper{DSV4, Eq. (8)}
/// axes     i = j stream
/// oracle   mhc/sinkhorn.hpp (forward); finite differences
/// deviates none
///
/// For y = x / (s + eps), s the sum of x along an axis:  dx = (dy - sum along the axis of dy y) / (s + eps).
/// The normalisations are recomputed from the logits and walked back.
#include "../mhc/sinkhorn.hpp"
#include "product.hpp"

namespace dsv4::train {

namespace detail {

/// N: the number of streams if it is known when compiling (loops unroll), else 0.
template <index N, class T>
void sinkhorn_backward(view<T, 2> logits /*[i,j]*/, index iterations, T eps, view<T, 2> g /*[i,j]*/) {
  const index n = N ? N : g.extent(0), steps = 2 * iterations - 1;
  workspace::scope here(thread_scratch());
  // What each step gives, and its denominators: step 0 divides by sums over i, step 1 over j, and so on.
  auto after = thread_scratch().take<T>(steps + 1, n, n);  // [step, i, j]; [0] is the softmax + eps
  auto denominator = thread_scratch().take<T>(steps, n);   // [step, j or i]
  auto softmax = thread_scratch().take<T>(n, n);           // [i, j]

  for (index i = 0; i < n; ++i) {
    T largest = logits(i, 0), sum = 0;
    for (index j = 1; j < n; ++j) largest = std::max(largest, logits(i, j));
    for (index j = 0; j < n; ++j) sum += softmax(i, j) = std::exp(logits(i, j) - largest);
    for (index j = 0; j < n; ++j) after(0, i, j) = (softmax(i, j) /= sum) + eps;
  }
  for (index k = 0; k < steps; ++k) {
    const bool over_i = k % 2 == 0;
    for (index a = 0; a < n; ++a) {
      T sum = 0;
      for (index b = 0; b < n; ++b) sum += over_i ? after(k, b, a) : after(k, a, b);
      denominator(k, a) = sum + eps;
    }
    for (index i = 0; i < n; ++i)
      for (index j = 0; j < n; ++j) after(k + 1, i, j) = after(k, i, j) / denominator(k, over_i ? j : i);
  }

  for (index k = steps; k-- > 0;) {
    const bool over_i = k % 2 == 0;
    for (index a = 0; a < n; ++a) {
      T dot = 0;  // sum along the axis of dy y
      for (index b = 0; b < n; ++b) dot += over_i ? g(b, a) * after(k + 1, b, a) : g(a, b) * after(k + 1, a, b);
      for (index b = 0; b < n; ++b) {
        T& x = over_i ? g(b, a) : g(a, b);
        x = (x - dot) / denominator(k, a);
      }
    }
  }
  // softmax over j: (g - <g, p>) p
  for (index i = 0; i < n; ++i) {
    T dot = 0;
    for (index j = 0; j < n; ++j) dot += g(i, j) * softmax(i, j);
    for (index j = 0; j < n; ++j) g(i, j) = (g(i, j) - dot) * softmax(i, j);
  }
}

}  // namespace detail

/// g [i, j] from the gradient of the balanced matrix to that of the logits, in place.
template <class T>
void sinkhorn_backward(view<T, 2> logits /*[i,j]*/, index iterations, T eps, view<T, 2> g /*[i,j]*/) {
  constexpr index published = 4;  // hc_mult of Flash and Pro
  if (g.extent(0) == published)
    detail::sinkhorn_backward<published>(logits, iterations, eps, g);
  else
    detail::sinkhorn_backward<0>(logits, iterations, eps, g);
}

}  // namespace dsv4::train
