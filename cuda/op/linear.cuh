// SPDX-License-Identifier: MIT
#pragma once
/// op/linear.hpp on a GPU, every weight format: a thread for each output channel and some tokens, so that a weight is
/// decoded once for them.  Each sum runs over k in the order of the specification: wide results have its bits too.
#include <dsv4/op/linear.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
inline constexpr index_t tokens_per_thread = 8;
inline constexpr index_t token_groups(index_t tokens) {
  return (tokens + tokens_per_thread - 1) / tokens_per_thread;
}

template <class A>
DSV4_DEVICE double input_at(const view<const A, 2>& x, index_t t, index_t k) {
  return widen<double>(x(t, k));
}
DSV4_DEVICE double input_at(const quantised_activations& x, index_t t, index_t k) { return x.at(t, k); }

// einsum: t k, o k -> t o
template <class X, class Y>
__global__ void linear(X x /*[t,k]*/, weight_matrix w /*[o,k]*/, view<Y, 2> y /*[t,o]*/) {
  const index_t o = item() % w.rows, first = item() / w.rows * tokens_per_thread;
  if (first >= y.extent(0)) return;
  const index_t tokens = smaller(tokens_per_thread, y.extent(0) - first);
  double sum[tokens_per_thread] = {};
  for (index_t k = 0; k < w.cols; ++k) {
    const double weight = w.at(o, k);
    for (index_t t = 0; t < tokens; ++t) sum[t] += input_at(x, first + t, k) * weight;
  }
  for (index_t t = 0; t < tokens; ++t) y(first + t, o) = store<Y>(sum[t]);
}

// einsum: t g k, g r k -> t g r
template <class A, class Y>
__global__ void grouped_linear(view<const A, 3> x /*[t,g,k]*/, weight_matrix w /*[g r,k]*/,
                               view<Y, 3> y /*[t,g,r]*/) {
  const index_t o = item() % w.rows, first = item() / w.rows * tokens_per_thread;
  if (first >= y.extent(0)) return;
  const index_t g = o / y.extent(2), r = o % y.extent(2),
                tokens = smaller(tokens_per_thread, y.extent(0) - first);
  double sum[tokens_per_thread] = {};
  for (index_t k = 0; k < w.cols; ++k) {
    const double weight = w.at(o, k);
    for (index_t t = 0; t < tokens; ++t) sum[t] += widen<double>(x(first + t, g, k)) * weight;
  }
  for (index_t t = 0; t < tokens; ++t) y(first + t, g, r) = store<Y>(sum[t]);
}
}  // namespace gpu

namespace kernel {
template <>
struct linear<exec::cuda> {
  /// x: view<const A, 2, mem::device> or basic_quantised_activations<mem::device>.
  template <class X, class Y>
  static void run(exec::cuda& e, const X& x, const basic_weight_matrix<mem::device>& w,
                  view<Y, 2, mem::device> y) {
    auto in = gpu::argument(x);
    gpu::launch(e.stream, gpu::one_thread_each(gpu::token_groups(y.extent(0)) * w.rows),
                gpu::linear<decltype(in), Y>, in, gpu::argument(w), gpu::argument(y));
  }
};

template <>
struct grouped_linear<exec::cuda> {
  template <class A, class Y>
  static void run(exec::cuda& e, view<const A, 3, mem::device> x, const basic_weight_matrix<mem::device>& w,
                  view<Y, 3, mem::device> y) {
    gpu::launch(e.stream, gpu::one_thread_each(gpu::token_groups(y.extent(0)) * w.rows),
                gpu::grouped_linear<A, Y>, gpu::argument(x), gpu::argument(w), gpu::argument(y));
  }
};
}  // namespace kernel

}  // namespace dsv4
