// SPDX-License-Identifier: MIT
#pragma once
/// Fast RMSNorm and head norm: rows in parallel, one pass to widen, one to store.
#include "../../op/rms_norm.hpp"
#include "../parallel.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct rms_norm<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;

  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 2> x, view<const float, 1> w, double eps, view<A, 2> y) {
    const index_t d = x.extent(1);
    cpu::parallel_for(x.extent(0), cpu::rows_per_task(d), [&](index_t from, index_t to) {
      workspace::scope here(cpu::local_scratch());
      auto row = cpu::local_scratch().template take<W>(d);
      for (index_t t = from; t < to; ++t) {
        cpu::widen_row(x[t].data(), d, row.data());
        const W r = inverse_rms(cpu::squares(row.data(), d), W(d), W(eps));
        for (index_t i = 0; i < d; ++i) row[i] = row[i] * r * W(w[i]);
        cpu::store_row(row.data(), d, y[t].data());
      }
    });
  }
};

template <accumulate M>
struct head_norm<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;

  template <class A>
  static void run(exec::basic_cpu<M>&, view<A, 3> q, double eps) {
    const index_t d = q.extent(2), rows = q.extent(0) * q.extent(1);
    const auto heads = q.reshape(rows, d);
    cpu::parallel_for(rows, cpu::rows_per_task(d), [&](index_t from, index_t to) {
      workspace::scope here(cpu::local_scratch());
      auto row = cpu::local_scratch().template take<W>(d);
      for (index_t t = from; t < to; ++t) {
        cpu::widen_row(heads[t].data(), d, row.data());
        // Every step is stored; the sum of stored squares is exact in W = double.
        const W sum = cpu::lane_sum<W>(d, [&](index_t i) { return rounded<A>(row[i] * row[i]); });
        const W mean = rounded<A>(sum / W(d));
        const W r = rounded<A>(1 / std::sqrt(rounded<A>(mean + W(eps))));
        for (index_t i = 0; i < d; ++i) row[i] *= r;
        cpu::store_row(row.data(), d, heads[t].data());
      }
    });
  }
};

}  // namespace dsv4::kernel
