// SPDX-License-Identifier: MIT
#pragma once
/// mhc/ on a GPU: mixes, their split with Sinkhorn, the read (pre, head) and the write (post).
#include <dsv4/mhc/head.hpp>
#include <dsv4/mhc/post.hpp>
#include <dsv4/mhc/pre.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"
#include "../op/linear.cuh"

namespace dsv4 {

namespace gpu {
/// Streams of a model: more than any has (n = 4); their values stand in registers.
inline constexpr index_t most_streams = 16;

// einsum: t c, m c -> t m, times 1 / rms of x[t]; a thread for each mix, which sums the squares beside its product
template <class A>
__global__ void hc_mixes(view<const A, 2> x /*[t,c]*/, weight_matrix fn /*[m,c]*/, double eps,
                         view<double, 2> mixes /*[t,m]*/) {
  if (item() >= mixes.size()) return;
  const index_t t = item() / mixes.extent(1), m = item() % mixes.extent(1);
  double sum = 0, squares = 0;
  for (index_t c = 0; c < x.extent(1); ++c) {
    const double v = widen<double>(x(t, c));
    sum += v * fn.at(m, c);
    squares += v * v;
  }
  mixes(t, m) = sum * inverse_rms(squares, double(x.extent(1)), eps);
}

// A thread for each token: Sinkhorn on n x n numbers is a chain of short sums.
DSV4_KERNEL void hc_split(view<const double, 2> mixes /*[t,m]*/, view<const float, 1> scale /*[3]*/,
                          view<const float, 1> base /*[m]*/, index_t iterations, double eps,
                          view<double, 2> pre /*[t,n]*/, view<double, 2> post /*[t,n]*/,
                          view<double, 3> comb /*[t,n,n]*/) {
  const index_t t = item();
  if (t < mixes.extent(0))
    split_mixes<double>(mixes[t], scale, base, iterations, eps, pre[t], post[t], comb[t]);
}

// einsum: t n, t n d -> t d
template <class A>
__global__ void hc_collapse(view<const double, 2> pre /*[t,n]*/, view<const A, 3> h /*[t,n,d]*/,
                            view<A, 2> y /*[t,d]*/) {
  if (item() >= y.size()) return;
  const index_t t = item() / y.extent(1), d = item() % y.extent(1);
  double sum = 0;
  for (index_t j = 0; j < h.extent(1); ++j) sum += pre(t, j) * widen<double>(h(t, j, d));
  y(t, d) = store<A>(sum);
}

// einsum: t j, t d -> t j d  plus  t i j, t i d -> t j d; a thread for one channel of all streams, in place
template <class A>
__global__ void hc_post(view<const A, 2> out /*[t,d]*/, view<const double, 2> post /*[t,n]*/,
                        view<const double, 3> comb /*[t,n,n]*/, view<A, 3> h /*[t,n,d]*/) {
  if (item() >= out.size()) return;
  const index_t t = item() / out.extent(1), d = item() % out.extent(1), n = h.extent(1);
  double before[most_streams];
  for (index_t i = 0; i < n; ++i) before[i] = widen<double>(h(t, i, d));
  for (index_t j = 0; j < n; ++j) {
    double sum = post(t, j) * widen<double>(out(t, d));
    for (index_t i = 0; i < n; ++i) sum += comb(t, i, j) * before[i];
    h(t, j, d) = store<A>(sum);
  }
}

// The weights with which the head reads the streams.
DSV4_KERNEL void head_weights_of_streams(view<const double, 2> mixes /*[t,n]*/,
                                         view<const float, 1> scale /*[1]*/,
                                         view<const float, 1> base /*[n]*/, double eps,
                                         view<double, 2> pre /*[t,n]*/) {
  if (item() >= pre.size()) return;
  const index_t t = item() / pre.extent(1), j = item() % pre.extent(1);
  pre(t, j) = hyper_pre(mixes(t, j), double(scale[0]), double(base[j]), eps);
}
}  // namespace gpu

namespace kernel {
template <>
struct hc_mixes<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 2, mem::device> x, const basic_weight_matrix<mem::device>& fn,
                  double eps, view<double, 2, mem::device> mixes) {
    gpu::launch(e.stream, gpu::one_thread_each(mixes.size()), gpu::hc_mixes<A>, gpu::argument(x),
                gpu::argument(fn), eps, gpu::argument(mixes));
  }
};
template <>
struct hc_split<exec::cuda> {
  static void run(exec::cuda& e, view<const double, 2, mem::device> mixes,
                  const hyper_split<mem::device>& how, const hyper_mix<double, mem::device>& mix) {
    gpu::launch(e.stream, gpu::one_thread_each(mixes.extent(0)), gpu::hc_split, gpu::argument(mixes),
                gpu::argument(how.scale), gpu::argument(how.base), how.iterations, how.eps,
                gpu::argument(mix.pre), gpu::argument(mix.post), gpu::argument(mix.comb));
  }
};
template <>
struct head_weights_of_streams<exec::cuda> {
  static void run(exec::cuda& e, view<const double, 2, mem::device> mixes,
                  const hyper_split<mem::device>& how, view<double, 2, mem::device> pre) {
    gpu::launch(e.stream, gpu::one_thread_each(pre.size()), gpu::head_weights_of_streams,
                gpu::argument(mixes), gpu::argument(how.scale), gpu::argument(how.base), how.eps,
                gpu::argument(pre));
  }
};
template <>
struct hc_collapse<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const double, 2, mem::device> pre, view<const A, 3, mem::device> h,
                  view<A, 2, mem::device> y) {
    gpu::launch(e.stream, gpu::one_thread_each(y.size()), gpu::hc_collapse<A>, gpu::argument(pre),
                gpu::argument(h), gpu::argument(y));
  }
};
template <>
struct hc_post<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 2, mem::device> out, view<const double, 2, mem::device> post,
                  view<const double, 3, mem::device> comb, view<A, 3, mem::device> h) {
    if (h.extent(1) > gpu::most_streams)
      throw unsupported("hc_post: " + std::to_string(h.extent(1)) + " streams, exec::cuda takes at most " +
                        std::to_string(gpu::most_streams));
    gpu::launch(e.stream, gpu::one_thread_each(out.size()), gpu::hc_post<A>, gpu::argument(out),
                gpu::argument(post), gpu::argument(comb), gpu::argument(h));
  }
};
}  // namespace kernel

}  // namespace dsv4
