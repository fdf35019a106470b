// SPDX-License-Identifier: MIT
#pragma once
/// Fast lightning indexer: scores of a query against tiles of entries as one small matrix product.
/// @paper{DSV4, Eq. (16)}
///
/// Tiles have a fixed size and one task computes whole scores, so neither the batch nor the number of
/// threads changes the order of a sum.
#include <Eigen/Core>

#include "../../attn/indexer.hpp"
#include "../parallel.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct index_scores<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  using matrix = Eigen::Matrix<W, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  // einsum: h d, s d -> h s; relu; h s, h -> s   (for each t)
  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 3> q, view<const A, 2> keys, view<const A, 2> weights,
                  view<A, 2> scores) {
    const index_t heads = q.extent(1), d = q.extent(2), n = keys.extent(0), tokens = scores.extent(0);
    if (n == 0) return;
    constexpr index_t tile = 64;  // entries per product: 64 x 128 keys stay in L1/L2
    const index_t tiles = (n + tile - 1) / tile;
    cpu::parallel_for(tokens * tiles, cpu::rows_per_task(heads * d * tile / 4),
                      [&](index_t from, index_t to) {
                        workspace& scratch = cpu::local_scratch();
                        workspace::scope here(scratch);
                        auto k = scratch.take<W>(tile, d);         // [s, d] zero-padded to a whole tile
                        auto query = scratch.take<W>(heads, d);    // [h, d]
                        auto dots = scratch.take<W>(heads, tile);  // [h, s]
                        index_t loaded_tile = -1, loaded_token = -1;
                        // Tile by tile, so that its keys are widened once for all the tokens of this task.
                        for (index_t task = from; task < to; ++task) {
                          const index_t b = task / tokens, t = task % tokens, first = b * tile,
                                        count = std::min(tile, n - first);
                          if (b != loaded_tile) {
                            cpu::widen_row(keys[first].data(), count * d, k.data());
                            std::fill(k.data() + count * d, k.end(), W(0));
                            loaded_tile = b;
                          }
                          if (t != loaded_token)
                            cpu::widen_row(q[t].data(), heads * d, query.data()), loaded_token = t;
                          Eigen::Map<matrix>(dots.data(), heads, tile).noalias() =
                              Eigen::Map<const matrix>(query.data(), heads, d) *
                              Eigen::Map<const matrix>(k.data(), tile, d).transpose();
                          W sum[tile] = {};
                          for (index_t h = 0; h < heads; ++h) {
                            const W w = widen<W>(weights(t, h));
                            const W* dot = dots[h].data();
                            for (index_t s = 0; s < tile; ++s)
                              sum[s] += rounded<A>(std::max(rounded<A>(dot[s]), W(0)) * w);  // Eq. (16)
                          }
                          cpu::store_row(sum, count, scores[t].data() + first);
                        }
                      });
  }
};

template <accumulate M>
struct index_select<exec::basic_cpu<M>> {
  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 2> scores, index_t start, index_t ratio,
                  view<std::int32_t, 2> chosen) {
    const index_t n = scores.extent(1);
    cpu::parallel_for(scores.extent(0), cpu::rows_per_task(16 * n), [&](index_t from, index_t to) {
      workspace::scope here(cpu::local_scratch());
      auto order = cpu::local_scratch().template take<std::int32_t>(n);
      for (index_t t = from; t < to; ++t)
        index_select<exec::ref>::select(scores[t], (start + t + 1) / ratio,
                                        std::span(order.data(), static_cast<std::size_t>(n)), chosen[t]);
    });
  }
};

template <accumulate M>
struct scale_stored<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  template <class A>
  static void run(exec::basic_cpu<M>&, view<A, 2> x, double factor) {
    for (A& v : x) v = store<A>(widen<W>(v) * W(factor));
  }
};

}  // namespace dsv4::kernel
