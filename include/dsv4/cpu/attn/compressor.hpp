// SPDX-License-Identifier: MIT
#pragma once
/// Fast compressor pooling: entries and channel ranges in parallel; per slot one pass over channels.
/// @paper{DSV4, Eq. (11), (12), (22), (23)}
#include "../../attn/compressor.hpp"
#include "../parallel.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct add_ape<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  static void run(exec::basic_cpu<M>&, view<const float, 2> ape, index_t start, view<W, 2> score) {
    for (index_t t = 0; t < score.extent(0); ++t) {
      const float* a = ape[(start + t) % ape.extent(0)].data();
      W* s = score[t].data();
      for (index_t d = 0; d < score.extent(1); ++d) s[d] += W(a[d]);  // Eq. (11), (22)
    }
  }
};

template <accumulate M>
struct compressor_pool<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;

  template <class A>
  static void run(exec::basic_cpu<M>&, const compressor_rows<W>& rows, index_t ratio, index_t from,
                  view<A, 2> pooled) {
    const bool overlap = kind_of_ratio(ratio) == attention_kind::csa;
    const index_t d = pooled.extent(1);
    constexpr index_t part = 64;  // channels per task: rows of a block are read in cache lines
    const index_t parts = (d + part - 1) / part;
    cpu::parallel_for(
        pooled.extent(0) * parts, cpu::rows_per_task(16 * ratio * part), [&](index_t begin, index_t end) {
          W largest[part], weights[part], sum[part];
          for (index_t task = begin; task < end; ++task) {
            const index_t i = task / parts, c0 = task % parts * part, n = std::min(part, d - c0);
            const index_t own = (from + i) * ratio, first = overlap && own > 0 ? own - ratio : own;
            // Slots p with their channels: the low half of the previous block, the high half of the own.
            const auto channel = [&](index_t p) { return c0 + (overlap && p >= own ? d : 0); };
            std::fill_n(largest, n, W(-INFINITY));
            for (index_t p = first; p < own + ratio; ++p) {
              const W* score = rows.score.row(p) + channel(p);
              for (index_t c = 0; c < n; ++c) largest[c] = std::max(largest[c], score[c]);
            }
            std::fill_n(weights, n, W(0));
            std::fill_n(sum, n, W(0));
            for (index_t p = first; p < own + ratio; ++p) {
              const W* score = rows.score.row(p) + channel(p);
              const W* kv = rows.kv.row(p) + channel(p);
              for (index_t c = 0; c < n; ++c) {
                const W weight = std::exp(score[c] - largest[c]);  // Eq. (11), (22)
                sum[c] += weight * kv[c];
                weights[c] += weight;
              }
            }
            for (index_t c = 0; c < n; ++c)
              pooled(i, c0 + c) = store<A>(sum[c] / weights[c]);  // Eq. (12), (23)
          }
        });
  }
};

}  // namespace dsv4::kernel
