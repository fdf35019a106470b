// SPDX-License-Identifier: MIT
#pragma once
/// The three products of training: y = x w^T, and what its gradient dy gives x and w.
/// axes     t token · k input channel · o output channel
/// oracle   finite differences; golden/transformers/seed0/grads.safetensors
///
/// All that training computes in parallel or in wide vectors goes through three customisation points: these products,
/// `rows`, a loop whose pieces write whole outputs, so that neither threads nor cuts change a bit, and `exponential`.
#include <algorithm>
#include <cmath>

#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../core/fold.hpp"
#include "../core/tensor.hpp"

namespace dsv4::train {

/// <a, b>.
// einsum: k, k -> (scalar)
template <class T>
T dot(const T* a, const T* b, index_t n) {
  return fold(n, T(0), [=](index_t k) { return a[k] * b[k]; });
}

/// Scratch of the calling thread, for the body of a parallel loop.  Take inside a workspace::scope.
inline workspace& thread_scratch() {
  thread_local workspace scratch;
  return scratch;
}

}  // namespace dsv4::train

namespace dsv4::kernel {

/// run(e, n, grain, f): f(begin, end) for pieces that cover [0, n).
template <execution E>
struct rows {
  static_assert(has_kernel<E>, "rows: no kernel for this executor");
};
template <>
struct rows<exec::ref> {
  template <class F>
  static void run(exec::ref&, index_t n, index_t /*grain*/, F&& f) {
    if (n > 0) f(index_t{0}, n);
  }
};

/// run(e, x, n): x[i] = exp(x[i]), in place.  What a number becomes depends neither on its neighbours nor on its place.
template <execution E>
struct exponential {
  static_assert(has_kernel<E>, "exponential: no kernel for this executor");
};
template <>
struct exponential<exec::ref> {
  template <class T>
  static void run(exec::ref&, T* x, index_t n) {
    for (index_t i = 0; i < n; ++i) x[i] = std::exp(x[i]);
  }
};

/// forward(e, x, w, y): y = x w^T.   backward(e, dy, x, w, dx, dw): dx += dy w (or an empty dx: not wanted), dw += dy^T x.
template <execution E>
struct products {
  static_assert(has_kernel<E>, "products: no kernel for this executor");
};
template <>
struct products<exec::ref> {
  // einsum: t k, o k -> t o
  template <class T>
  static void forward(exec::ref&, view<const T, 2> x, view<const T, 2> w, view<T, 2> y) {
    for (index_t t = 0; t < y.extent(0); ++t)
      for (index_t o = 0; o < y.extent(1); ++o) {
        T sum = 0;
        for (index_t k = 0; k < x.extent(1); ++k) sum += x(t, k) * w(o, k);
        y(t, o) = sum;
      }
  }
  template <class T>
  static void backward(exec::ref&, view<const T, 2> dy, view<const T, 2> x, view<const T, 2> w, view<T, 2> dx,
                       view<T, 2> dw) {
    // einsum: t o, o k -> t k
    for (index_t t = 0; dx.data() && t < dx.extent(0); ++t)
      for (index_t o = 0; o < dy.extent(1); ++o)
        for (index_t k = 0; k < dx.extent(1); ++k) dx(t, k) += dy(t, o) * w(o, k);
    // einsum: t o, t k -> o k
    for (index_t o = 0; o < dw.extent(0); ++o)
      for (index_t t = 0; t < dy.extent(0); ++t)
        for (index_t k = 0; k < dw.extent(1); ++k) dw(o, k) += dy(t, o) * x(t, k);
  }
};

}  // namespace dsv4::kernel

namespace dsv4::train {

/// y = x w^T.
template <execution E, class T>
void project(E& e, view<T, 2> x /*[t,k]*/, view<const T, 2> w /*[o,k]*/, view<T, 2> y /*[t,o]*/) {
  expects_equal(x.extent(1), w.extent(1), "project: channels of x against columns of w");
  expects_equal(y.extent(1), w.extent(0), "project: channels of y against rows of w");
  kernel::products<E>::forward(e, view<const T, 2>(x), w, y);
}

/// dx += dy w and dw += dy^T x.  An empty dx: its gradient is not wanted.
template <execution E, class T>
void project_backward(E& e, view<T, 2> dy /*[t,o]*/, view<T, 2> x /*[t,k]*/, view<const T, 2> w /*[o,k]*/,
                      view<T, 2> dx /*[t,k]*/, view<T, 2> dw /*[o,k]*/) {
  kernel::products<E>::backward(e, view<const T, 2>(dy), view<const T, 2>(x), w, dx, dw);
}

/// Smallest number of tokens worth a piece of its own in `rows`.
inline constexpr index_t token_grain = 16;
/// The same for channels, where a piece sums over all tokens, and for words that are only written.
inline constexpr index_t channel_grain = 16, word_grain = 4096;

/// All n numbers become zero.
template <execution E, class T>
void set_zero(E& e, T* x, index_t n) {
  kernel::rows<E>::run(e, n, word_grain,
                       [&](index_t begin, index_t end) { std::fill(x + begin, x + end, T{}); });
}
/// A view of `scratch`, filled with zeros.
template <class T, execution E, class... N>
auto zeros(E& e, workspace& scratch, N... n) {
  auto v = scratch.take<T>(n...);
  set_zero(e, v.data(), v.size());
  return v;
}

}  // namespace dsv4::train
