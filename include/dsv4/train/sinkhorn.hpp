// SPDX-License-Identifier: MIT
#pragma once
/// Sinkhorn of training, forward and backward: all 2 * 20 - 1 normalisations, and the softmax they begin with.
/// @paper{DSV4, Eq. (8)}
/// axes     i = j stream · l one of eight tokens side by side
/// oracle   mhc/sinkhorn.hpp (forward); finite differences
/// deviates none
///
/// For y = x / (s + eps), s the sum of x along an axis:  dx = (dy - sum along the axis of dy y) / (s + eps).
/// The normalisations are recomputed from the logits, then differentiated from the last to the first.  A matrix of
/// 4 x 4 is too small for vectors, so a vector holds the same entry of eight tokens.
/// No token's numbers depend on its neighbours.
#include "../mhc/sinkhorn.hpp"
#include "product.hpp"

namespace dsv4::train {

/// Tokens side by side.
inline constexpr index_t sinkhorn_lanes = 8;

/// All steps of eight matrices: after[0] is the softmax + eps, after[k + 1] = after[k] divided by sums over i (k even)
/// or over j (k odd) + eps, which are kept.
template <class T>
struct sinkhorn_steps {
  static constexpr index_t lanes = sinkhorn_lanes;
  index_t n, steps;
  view<T, 3> softmax;      // [i, j, l]
  view<T, 4> after;        // [step, i, j, l]
  view<T, 3> denominator;  // [step, j or i, l]

  static sinkhorn_steps take(workspace& w, index_t n, index_t iterations) {
    const index_t steps = 2 * iterations - 1;
    return {n, steps, w.take<T>(n, n, lanes), w.take<T>(steps + 1, n, n, lanes), w.take<T>(steps, n, lanes)};
  }
  /// The balanced matrices.
  view<T, 3> result() const { return after[steps]; }

  /// softmax holds the logits.
  template <execution E>
  void forward(E& e, T eps) const {
    // Softmax over j.
    for (index_t i = 0; i < n; ++i) {
      T largest[lanes], sum[lanes] = {};
      std::copy_n(at(softmax, i, 0), lanes, largest);
      for (index_t j = 1; j < n; ++j)
        each([&](index_t l) { largest[l] = std::max(largest[l], at(softmax, i, j)[l]); });
      for (index_t j = 0; j < n; ++j) each([&](index_t l) { at(softmax, i, j)[l] -= largest[l]; });
      kernel::exponential<E>::run(e, at(softmax, i, 0), n * lanes);  // Eq. (8)
      for (index_t j = 0; j < n; ++j) each([&](index_t l) { sum[l] += at(softmax, i, j)[l]; });
      for (index_t j = 0; j < n; ++j)
        // Eq. (8)
        each([&](index_t l) { at(after[0], i, j)[l] = (at(softmax, i, j)[l] /= sum[l]) + eps; });
    }
    for (index_t k = 0; k < steps; ++k)
      for (index_t a = 0; a < n; ++a) {
        T sum[lanes] = {};
        for (index_t b = 0; b < n; ++b) each([&](index_t l) { sum[l] += along(after[k], k, a, b)[l]; });
        T* const below = denominator[k][a].data();
        each([&](index_t l) { below[l] = sum[l] + eps; });
        for (index_t b = 0; b < n; ++b)
          // Eq. (8)
          each([&](index_t l) { along(after[k + 1], k, a, b)[l] = along(after[k], k, a, b)[l] / below[l]; });
      }
  }

  /// Turns g, the gradient of the result, into that of the logits, in place.
  void backward(view<T, 3> g /*[i,j,l]*/) const {
    for (index_t k = steps; k-- > 0;)
      for (index_t a = 0; a < n; ++a) {
        T dot[lanes] = {};  // sum along the axis of dy y
        for (index_t b = 0; b < n; ++b)
          each([&](index_t l) { dot[l] += along(g, k, a, b)[l] * along(after[k + 1], k, a, b)[l]; });
        const T* const below = denominator[k][a].data();
        for (index_t b = 0; b < n; ++b)
          each([&](index_t l) { along(g, k, a, b)[l] = (along(g, k, a, b)[l] - dot[l]) / below[l]; });
      }
    // Softmax over j: (g - <g, p>) p.
    for (index_t i = 0; i < n; ++i) {
      T dot[lanes] = {};
      for (index_t j = 0; j < n; ++j)
        each([&](index_t l) { dot[l] += at(g, i, j)[l] * at(softmax, i, j)[l]; });
      for (index_t j = 0; j < n; ++j)
        each([&](index_t l) { at(g, i, j)[l] = (at(g, i, j)[l] - dot[l]) * at(softmax, i, j)[l]; });
    }
  }

 private:
  template <class F>
  static void each(F f) {
    for (index_t l = 0; l < lanes; ++l) f(l);
  }
  /// The eight entries (i, j).
  static T* at(view<T, 3> x, index_t i, index_t j) { return x.data() + (i * x.extent(1) + j) * lanes; }
  /// Step k divides n groups of n entries by their sums: this is entry b of group a.
  static T* along(view<T, 3> x, index_t k, index_t a, index_t b) {
    return k % 2 == 0 ? at(x, b, a) : at(x, a, b);
  }
};

}  // namespace dsv4::train
