// SPDX-License-Identifier: MIT
#pragma once
/// Fast core attention: per query and tile of heads two dense products over the gathered rows.
///
/// The rows a query sees are widened once; scores [heads, slots] and the output [heads, d] are Eigen
/// products.  The running maximum of the specification is kept: p is stored relative to the maximum of
/// the blocks seen so far, and what later blocks would have shrunk it by multiplies it at the end, which
/// in W = double is the same number up to 1e-15.  The division by the denominator comes after the product
/// with the values: stored p times stored v is exact, so that terms which cancel exactly give exactly 0,
/// as in the specification.  Head tiles are fixed, so that the number of threads changes no product's shape.
#include <Eigen/Core>

#include "../../attn/sparse_attention.hpp"
#include "../parallel.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct sparse_attention<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  using matrix = Eigen::Matrix<W, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using map = Eigen::Map<matrix>;
  using const_map = Eigen::Map<const matrix>;
  static constexpr index head_tile = 16;

  // einsum: h d, s d -> h s; softmax over s; h s, s d -> h d   (for each t)
  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 3> q, const attention_slots<A>& slots, view<const float, 1> sink,
                  double scale, view<A, 3> o) {
    const index heads = q.extent(1), d = q.extent(2), tiles = (heads + head_tile - 1) / head_tile;
    cpu::parallel_for(q.extent(0) * tiles, 1, [&](index from, index to) {
      workspace& scratch = cpu::local_scratch();
      workspace::scope here(scratch);
      auto rows = scratch.take<W>(slots.slots(), d);                  // [s, d] of the slots that are filled
      auto slot = scratch.take<index>(slots.slots());                 // their numbers
      auto query = scratch.take<W>(head_tile, d);                     // [h, d]
      auto p = scratch.take<W>(head_tile * slots.slots());            // [h, s]
      auto out = scratch.take<W>(head_tile, d);                       // [h, d]
      index loaded = -1, n = 0;
      for (index task = from; task < to; ++task) {
        const index t = task / tiles, h0 = task % tiles * head_tile, count = std::min(head_tile, heads - h0);
        // Gather and widen the rows of the query's filled slots.
        if (t != loaded) {
          n = 0;
          for (index s = 0; s < slots.slots(); ++s)
            if (const A* row = slots.row(t, s)) {
              cpu::widen_row(row, d, rows[n].data());
              slot[n++] = s;
            }
          loaded = t;
        }
        cpu::widen_row(q[t][h0].data(), count * d, query.data());
        map scores(p.data(), count, n);
        scores.noalias() = const_map(query.data(), count, d) * const_map(rows.data(), n, d).transpose();
        W denominator[head_tile];
        for (index h = 0; h < count; ++h)
          denominator[h] = softmax<A>(p.data() + h * n, slot.data(), n, W(scale), W(sink[h0 + h]));
        map result(out.data(), count, d);
        result.noalias() = const_map(p.data(), count, n) * const_map(rows.data(), n, d);
        for (index h = 0; h < count; ++h) result.row(h) /= denominator[h];
        cpu::store_row(out.data(), count * d, o[t][h0].data());
      }
    });
  }

  /// Scores of one head, in place, to stored p times the later shrinks; returns the denominator.
  template <class A>
  static W softmax(W* p, const index* slot, index n, W scale, W sink) {
    W m = -INFINITY, denominator = 0;
    for (index from = 0; from < n;) {
      // The filled slots of one block of 64.
      const index block = slot[from] / softmax_block;
      index to = from;
      const W before = m;
      for (; to < n && slot[to] / softmax_block == block; ++to) m = std::max(m, p[to] *= scale);
      // Earlier terms shrink by the growth of the maximum.
      if (from > 0 && m > before) {
        const W shrink = std::exp(before - m);
        denominator *= shrink;
        for (index s = 0; s < from; ++s) p[s] *= shrink;
      }
      for (index s = from; s < to; ++s) {
        const W e = std::exp(p[s] - m);
        denominator += e;
        p[s] = rounded<A>(e);
      }
      from = to;
    }
    return denominator + std::exp(sink - m);
  }
};

}  // namespace dsv4::kernel
