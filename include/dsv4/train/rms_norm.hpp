// SPDX-License-Identifier: MIT
#pragma once
/// RMSNorm, forward and backward: with a learned weight, and per head without one.
/// @paper{DSV4, section 2.3.3}
/// axes     t token · d channel · h head
/// oracle   op/rms_norm.hpp (forward); finite differences; golden/transformers/seed0/grads.safetensors
/// deviates none
///
///   y_d = x_d r w_d,  r = (mean x^2 + eps)^-1/2
///   dw_d += sum_t dy_d x_d r          dx_d = r w_d dy_d - x_d r^3 / D  sum_d' dy_d' w_d' x_d'
#include "../num/formulas.hpp"
#include "product.hpp"

namespace dsv4::train {

/// r of one row.
template <class T>
T rms_factor(const T* x, index_t n, double eps) {
  return inverse_rms(dot(x, x, n), T(n), T(eps));
}

/// y = norm(x) w; keeps r [t] for the way back.  y may share x's memory only if x is not needed for the way back.
template <execution E, class T>
void rms_norm(E& e, view<T, 2> x /*[t,d]*/, view<const T, 1> w /*[d]*/, double eps, view<T, 1> r /*[t]*/,
              view<T, 2> y /*[t,d]*/) {
  kernel::rows<E>::run(e, x.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) {
      r[t] = rms_factor<T>(x[t].data(), x.extent(1), eps);
      for (index_t d = 0; d < x.extent(1); ++d) y(t, d) = x(t, d) * r[t] * w[d];
    }
  });
}

/// dx += …, dw += …
template <execution E, class T>
void rms_norm_backward(E& e, view<T, 2> dy /*[t,d]*/, view<T, 2> x /*[t,d]*/, view<const T, 1> w /*[d]*/,
                       view<T, 1> r /*[t]*/, view<T, 2> dx /*[t,d]*/, view<T, 1> dw /*[d]*/) {
  const index_t tokens = x.extent(0), n = x.extent(1);
  if (dx.data())
    kernel::rows<E>::run(e, tokens, token_grain, [&](index_t begin, index_t end) {
      workspace::scope here(thread_scratch());
      auto row = thread_scratch().take<T>(n);  // [d]
      for (index_t t = begin; t < end; ++t) {
        const T *g = dy[t].data(), *xt = x[t].data();
        T* out = dx[t].data();
        T* weighted = row.data();  // w dy
        for (index_t d = 0; d < n; ++d) weighted[d] = g[d] * w[d];
        const T pull = dot(weighted, xt, n) * r[t] * r[t] * r[t] / T(n);
        for (index_t d = 0; d < n; ++d) out[d] += r[t] * weighted[d] - pull * xt[d];
      }
    });
  kernel::rows<E>::run(e, n, channel_grain, [&](index_t begin, index_t end) {
    for (index_t t = 0; t < tokens; ++t)
      for (index_t d = begin; d < end; ++d) dw[d] += dy(t, d) * x(t, d) * r[t];
  });
}

/// Each head divided by its root mean square, in place; r [t, h] for the way back.
template <execution E, class T>
void head_norm(E& e, view<T, 3> q /*[t,h,d]*/, double eps, view<T, 2> r /*[t,h]*/) {
  kernel::rows<E>::run(e, q.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t h = 0; h < q.extent(1); ++h) {
        T* x = q[t][h].data();
        r(t, h) = rms_factor<T>(x, q.extent(2), eps);
        for (index_t d = 0; d < q.extent(2); ++d) x[d] *= r(t, h);
      }
  });
}

/// dq in place, from the gradient of the normed y = q r to that of q:  r (dy - y mean(dy y)).
template <execution E, class T>
void head_norm_backward(E& e, view<T, 3> dq /*[t,h,d]*/, view<T, 3> y /*[t,h,d]*/, view<T, 2> r /*[t,h]*/) {
  kernel::rows<E>::run(e, y.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t h = 0; h < y.extent(1); ++h) {
        T* g = dq[t][h].data();
        const T* normed = y[t][h].data();
        const T mean = dot<T>(g, normed, y.extent(2)) / T(y.extent(2));
        for (index_t d = 0; d < y.extent(2); ++d) g[d] = r(t, h) * (g[d] - normed[d] * mean);
      }
  });
}

}  // namespace dsv4::train
