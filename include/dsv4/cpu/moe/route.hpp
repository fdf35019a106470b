// SPDX-License-Identifier: MIT
#pragma once
/// Fast routing scores and the sum with the shared expert: tokens in parallel.
#include "../../moe/moe.hpp"
#include "../parallel.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct gate_scores<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  static void run(exec::basic_cpu<M>&, view<W, 2> scores, view<const float, 1> bias, view<W, 2> biased) {
    const index_t n = scores.extent(1);
    cpu::parallel_for(scores.extent(0), cpu::rows_per_task(32 * n), [&](index_t from, index_t to) {
      for (index_t t = from; t < to; ++t)
        for (index_t e = 0; e < n; ++e) {
          scores(t, e) = gate_affinity(scores(t, e));
          biased(t, e) = scores(t, e) + (bias.extent(0) ? W(bias[e]) : W(0));
        }
    });
  }
};

template <accumulate M>
struct add_shared<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  template <class A>
  static void run(exec::basic_cpu<M>&, view<const W, 2> routed, view<const A, 2> shared, view<A, 2> out) {
    const index_t d = out.extent(1);
    cpu::parallel_for(out.extent(0), cpu::rows_per_task(d), [&](index_t from, index_t to) {
      for (index_t i = from * d; i < to * d; ++i)
        out.data()[i] = store<A>(routed.data()[i] + widen<W>(shared.data()[i]));
    });
  }
};

}  // namespace dsv4::kernel
