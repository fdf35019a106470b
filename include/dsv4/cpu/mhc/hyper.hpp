// SPDX-License-Identifier: MIT
#pragma once
/// Fast mHC: tokens in parallel; the product with fn is an ordinary linear, its norm factor one pass.
/// @paper{DSV4, Eq. (1), (3)-(5)}
#include "../../mhc/head.hpp"
#include "../../mhc/post.hpp"
#include "../../model/mtp.hpp"
#include "../op/linear.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct hc_mixes<exec::basic_cpu<M>> {
  using E = exec::basic_cpu<M>;
  using W = typename E::wide;

  template <class A>
  static void run(E& e, view<const A, 2> x, const weight_matrix& fn, double eps, view<W, 2> mixes) {
    linear<E>::run(e, x, fn, mixes);  // Eq. (3), (4), (5)
    const index_t c = x.extent(1);
    cpu::parallel_for(x.extent(0), cpu::rows_per_task(c), [&](index_t from, index_t to) {
      for (index_t t = from; t < to; ++t) {
        const A* row = x[t].data();
        const W sum = cpu::lane_sum<W>(c, [row](index_t k) { return widen<W>(row[k]) * widen<W>(row[k]); });
        const W r = inverse_rms(sum, W(c), W(eps));
        for (W& m : mixes[t]) m *= r;  // Eq. (3), (4), (5)
      }
    });
  }
};

template <accumulate M>
struct hc_split<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  static void run(exec::basic_cpu<M>&, view<const W, 2> mixes, const hyper_split<>& how,
                  const hyper_mix<W>& mix) {
    cpu::parallel_for(mixes.extent(0), 4, [&](index_t from, index_t to) {
      for (index_t t = from; t < to; ++t)
        split_mixes<W>(mixes[t], how.scale, how.base, how.iterations, how.eps, mix.pre[t], mix.post[t],
                       mix.comb[t]);
    });
  }
};

template <accumulate M>
struct hc_collapse<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;

  template <class A>
  static void run(exec::basic_cpu<M>&, view<const W, 2> pre, view<const A, 3> h, view<A, 2> y) {
    const index_t n = h.extent(1), d = h.extent(2);
    cpu::parallel_for(h.extent(0), cpu::rows_per_task(n * d), [&](index_t from, index_t to) {
      workspace::scope here(cpu::local_scratch());
      auto sum = cpu::local_scratch().template take<W>(d);
      for (index_t t = from; t < to; ++t) {
        std::fill(sum.begin(), sum.end(), W(0));
        for (index_t j = 0; j < n; ++j) {
          const W p = pre(t, j);
          const A* stream = h[t][j].data();
          for (index_t i = 0; i < d; ++i) sum[i] += p * widen<W>(stream[i]);  // Eq. (1)
        }
        cpu::store_row(sum.data(), d, y[t].data());
      }
    });
  }
};

template <accumulate M>
struct hc_post<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;

  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 2> out, view<const W, 2> post, view<const W, 3> comb,
                  view<A, 3> h) {
    const index_t n = h.extent(1), d = h.extent(2);
    cpu::parallel_for(h.extent(0), cpu::rows_per_task(2 * n * d), [&](index_t from, index_t to) {
      workspace::scope here(cpu::local_scratch());
      auto streams = cpu::local_scratch().template take<W>(n, d),
           next = cpu::local_scratch().template take<W>(n, d);
      auto o = cpu::local_scratch().template take<W>(d);
      for (index_t t = from; t < to; ++t) {
        cpu::widen_row(h[t].data(), n * d, streams.data());
        cpu::widen_row(out[t].data(), d, o.data());
        for (index_t j = 0; j < n; ++j) {
          W* y = next[j].data();
          const W p = post(t, j);
          for (index_t k = 0; k < d; ++k) y[k] = p * o[k];  // Eq. (1)
          for (index_t i = 0; i < n; ++i) {
            const W c = comb(t, i, j);
            const W* s = streams[i].data();
            for (index_t k = 0; k < d; ++k) y[k] += c * s[k];  // Eq. (1)
          }
        }
        cpu::store_row(next.data(), n * d, h[t].data());
      }
    });
  }
};

template <accumulate M>
struct add_to_streams<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 2> a, view<A, 3> b) {
    for (index_t t = 0; t < b.extent(0); ++t)
      for (index_t j = 0; j < b.extent(1); ++j)
        for (index_t d = 0; d < b.extent(2); ++d)
          b(t, j, d) = store<A>(widen<W>(a(t, d)) + widen<W>(b(t, j, d)));
  }
};

}  // namespace dsv4::kernel
