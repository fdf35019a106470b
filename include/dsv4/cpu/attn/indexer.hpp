// SPDX-License-Identifier: MIT
#pragma once
/// Fast lightning indexer: scores of a query against tiles of entries as one small matrix product.
/// @paper{DSV4, Eq. (16)}
///
/// Queries and keys that are FP4 values are multiplied in float without a rounding, in exec::cpu too (exact_scores.hpp).
/// Tiles have a fixed size and one task computes whole scores, so neither the batch nor the number of
/// threads changes the order of a sum.
#include <Eigen/Core>
#include <tuple>

#include "../../attn/indexer.hpp"
#include "../parallel.hpp"
#include "../row.hpp"
#include "exact_scores.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct index_scores<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  template <class T>
  using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  static constexpr index_t tile = 64;  // entries per product: 64 x 128 keys stay in L1/L2

  // einsum: h d, s d -> h s; relu; h s, h -> s   (for each t)
  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 3> q, view<const A, 2> keys, view<const A, 2> weights,
                  view<A, 2> scores) {
    const index_t heads = q.extent(1), d = q.extent(2), n = keys.extent(0), tokens = scores.extent(0);
    if (n == 0) return;
    const index_t tiles = (n + tile - 1) / tile;
    cpu::parallel_for(tokens * tiles, cpu::rows_per_task(heads * d * tile / 4),
                      [&](index_t from, index_t to) { of_tiles(q, keys, weights, scores, from, to); });
  }

 private:
  /// One operand as T: keys of a tile or queries of a token.
  template <class T>
  struct operand {
    view<T, 2> rows;
    index_t loaded;  // which tile or token, -1: none
    cpu::value_span span;

    template <class A>
    void load(index_t number, const A* from, index_t count) {
      if (loaded == number) return;
      loaded = number;
      const index_t d = rows.extent(1);
      cpu::widen_row(from, count * d, rows.data());
      std::fill(rows.data() + count * d, rows.end(), T(0));  // a whole tile
      span = {};
      if constexpr (std::is_same_v<A, bf16>)
        for (index_t r = 0; r < count; ++r) span |= cpu::span_of(from + r * d, d);
    }
  };

  /// Tasks [from, to) of tiles x tokens, tile by tile, so that its keys are widened once for all the tokens of a task.
  template <class A>
  static void of_tiles(view<const A, 3> q, view<const A, 2> keys, view<const A, 2> weights, view<A, 2> scores,
                       index_t from, index_t to) {
    const index_t heads = q.extent(1), d = q.extent(2), n = keys.extent(0), tokens = scores.extent(0);
    workspace& scratch = cpu::local_scratch();
    workspace::scope here(scratch);
    const auto room = [&]<class T>(T) {
      return std::tuple(operand<T>{scratch.take<T>(tile, d), -1, {}},
                        operand<T>{scratch.take<T>(heads, d), -1, {}},
                        scratch.take<T>(heads, tile));  // [s, d], [h, d], dots [h, s]
    };
    auto [k, query, dots] = room(W());
    auto [k_float, query_float, dots_float] = room(0.0f);
    for (index_t task = from; task < to; ++task) {
      const index_t b = task / tokens, t = task % tokens, first = b * tile, count = std::min(tile, n - first);
      W sum[tile] = {};
      bool exact = false;
      if constexpr (std::is_same_v<A, bf16>) {
        k_float.load(b, keys[first].data(), count);
        query_float.load(t, q[t].data(), heads);
        exact =
            cpu::exact_in_float(query_float.span, k_float.span, cpu::span_of(weights[t].data(), heads), d);
      }
      if (exact) {
        multiply(query_float.rows, k_float.rows, dots_float);
        for (index_t h = 0; h < heads; ++h)
          cpu::add_head(dots_float[h].data(), widen<float>(weights(t, h)), tile, sum);
      } else {
        k.load(b, keys[first].data(), count);
        query.load(t, q[t].data(), heads);
        multiply(query.rows, k.rows, dots);
        for (index_t h = 0; h < heads; ++h) {
          const W w = widen<W>(weights(t, h));
          const W* dot = dots[h].data();
          for (index_t s = 0; s < tile; ++s)
            sum[s] += rounded<A>(std::max(rounded<A>(dot[s]), W(0)) * w);  // Eq. (16)
        }
      }
      cpu::store_row(sum, count, scores[t].data() + first);
    }
  }

  template <class T>
  static void multiply(view<T, 2> q /*[h,d]*/, view<T, 2> k /*[s,d]*/, view<T, 2> dots /*[h,s]*/) {
    const index_t heads = q.extent(0), d = q.extent(1);
    Eigen::Map<matrix<T>>(dots.data(), heads, tile).noalias() =
        Eigen::Map<const matrix<T>>(q.data(), heads, d) *
        Eigen::Map<const matrix<T>>(k.data(), tile, d).transpose();
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
