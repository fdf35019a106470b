// SPDX-License-Identifier: MIT
#pragma once
/// The three products of training: y = x w^T, and what its gradient dy gives x and w.
/// @paper{none, the chain rule of a linear layer}
/// axes     t token · k input channel · o output channel
/// oracle   finite differences; golden/transformers/seed0/grads.safetensors
/// deviates none
///
/// All that training computes in parallel goes through two customisation points: these products, and
/// `rows`, a loop whose pieces write whole outputs, so that neither threads nor cuts change a bit.
#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../core/tensor.hpp"

namespace dsv4::train {

/// <a, b> in eight interleaved partial sums: one fixed order, and one that compilers turn into vector code.
// einsum: k, k -> (scalar)
template <class T>
T dot(const T* a, const T* b, index n) {
  constexpr index lanes = 8;
  T part[lanes] = {};
  index k = 0;
  for (; k + lanes <= n; k += lanes)
    for (index i = 0; i < lanes; ++i) part[i] += a[k + i] * b[k + i];
  for (index i = 0; k + i < n; ++i) part[i] += a[k + i] * b[k + i];
  for (index half = lanes / 2; half > 0; half /= 2)
    for (index i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
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
  static void run(exec::ref&, index n, index /*grain*/, F&& f) {
    if (n > 0) f(index{0}, n);
  }
};

/// forward(e, x, w, y): y = x w^T.   input(e, dy, w, dx): dx += dy w.   weight(e, dy, x, dw): dw += dy^T x.
template <execution E>
struct products {
  static_assert(has_kernel<E>, "products: no kernel for this executor");
};
template <>
struct products<exec::ref> {
  // einsum: t k, o k -> t o
  template <class T>
  static void forward(exec::ref&, view<const T, 2> x, view<const T, 2> w, view<T, 2> y) {
    for (index t = 0; t < y.extent(0); ++t)
      for (index o = 0; o < y.extent(1); ++o) {
        T sum = 0;
        for (index k = 0; k < x.extent(1); ++k) sum += x(t, k) * w(o, k);
        y(t, o) = sum;
      }
  }
  // einsum: t o, o k -> t k
  template <class T>
  static void input(exec::ref&, view<const T, 2> dy, view<const T, 2> w, view<T, 2> dx) {
    for (index t = 0; t < dx.extent(0); ++t)
      for (index o = 0; o < dy.extent(1); ++o)
        for (index k = 0; k < dx.extent(1); ++k) dx(t, k) += dy(t, o) * w(o, k);
  }
  // einsum: t o, t k -> o k
  template <class T>
  static void weight(exec::ref&, view<const T, 2> dy, view<const T, 2> x, view<T, 2> dw) {
    for (index o = 0; o < dw.extent(0); ++o)
      for (index t = 0; t < dy.extent(0); ++t)
        for (index k = 0; k < dw.extent(1); ++k) dw(o, k) += dy(t, o) * x(t, k);
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
  if (dx.data()) kernel::products<E>::input(e, view<const T, 2>(dy), w, dx);
  kernel::products<E>::weight(e, view<const T, 2>(dy), view<const T, 2>(x), dw);
}

/// A view of `scratch`, filled with zeros.
template <class T, class... N>
auto zeros(workspace& scratch, N... n) {
  auto v = scratch.take<T>(n...);
  std::fill(v.begin(), v.end(), T{});
  return v;
}

/// Smallest number of tokens worth a piece of its own in `rows`.
inline constexpr index token_grain = 16;
/// The same for channels, in sums over all tokens.
inline constexpr index channel_grain = 16;

}  // namespace dsv4::train
