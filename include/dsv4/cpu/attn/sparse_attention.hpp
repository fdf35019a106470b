// SPDX-License-Identifier: MIT
#pragma once
/// Fast core attention: per query and tile of heads two dense products over the gathered rows.
/// @paper{DSV4, Eq. (19), (26), (27)}
///
/// The rows a query sees are widened once; scores [heads, slots] and the output [heads, d] are Eigen
/// products.  The running maximum of the specification is kept: p is stored relative to the maximum of
/// the blocks seen so far, and what later blocks would have shrunk it by multiplies it at the end, which
/// in W = double is the same number up to 1e-15.  The division by the denominator comes after the product
/// with the values: stored p times stored v is exact, so that terms which cancel exactly give exactly 0,
/// as in the specification.  Head tiles are fixed, so that the number of threads changes no product's shape.
///
/// Scores and the softmax are double in accumulate::fast too: storing p is a quantiser, and a float error
/// of 1e-7 in a score crosses one of its boundaries once in ten thousand, which moves that slot's weight
/// by 2^-8 (measured on flash-mini: 2.5 times the faithful bound on o).  The product with the values is W.
#include <Eigen/Core>

#include "../../attn/sparse_attention.hpp"
#include "../parallel.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct sparse_attention<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;
  template <class T>
  using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  template <class T>
  using map = Eigen::Map<matrix<T>>;
  template <class T>
  using const_map = Eigen::Map<const matrix<T>>;
  static constexpr index_t head_tile = 16;
  // Slots per product: its packed operand, 32 x 512 doubles, is the 128 KiB that Eigen takes from the stack
  // (EIGEN_STACK_ALLOCATION_LIMIT) rather than from the heap.
  static constexpr index_t slot_tile = 32;  // check: 32 * 512 * 8 == 131072

  // einsum: h d, s d -> h s; softmax over s; h s, s d -> h d   (for each t)
  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 3> q, const attention_slots<A>& slots,
                  view<const float, 1> sink, double scale, view<A, 3> o) {
    const index_t heads = q.extent(1), d = q.extent(2), tiles = (heads + head_tile - 1) / head_tile;
    cpu::parallel_for(q.extent(0) * tiles, 1, [&](index_t from, index_t to) {
      workspace& scratch = cpu::local_scratch();
      workspace::scope here(scratch);
      auto keys = scratch.take<double>(slots.slots(), d);         // [s, d] of the slots that are filled,
      auto slot = scratch.take<index_t>(slots.slots());           // … their numbers
      auto query = scratch.take<double>(head_tile, d);            // [h, d]
      auto p = scratch.take<double>(head_tile * slots.slots());   // [h, s]
      auto weights = scratch.take<W>(head_tile * slots.slots());  // [h, s] p as W
      auto values = scratch.take<W>(slots.slots(), d);            // [s, d] keys as W
      auto out = scratch.take<W>(head_tile, d);                   // [h, d]
      index_t loaded = -1, n = 0;
      for (index_t task = from; task < to; ++task) {
        const index_t t = task / tiles, h0 = task % tiles * head_tile,
                      count = std::min(head_tile, heads - h0);
        // Gather and widen the rows of the query's filled slots.
        if (t != loaded) {
          n = 0;
          for (index_t s = 0; s < slots.slots(); ++s)
            if (const A* row = slots.row(t, s)) {
              cpu::widen_row(row, d, keys[n].data());
              if constexpr (!std::is_same_v<W, double>) cpu::widen_row(row, d, values[n].data());
              slot[n++] = s;
            }
          loaded = t;
        }
        cpu::widen_row(q[t][h0].data(), count * d, query.data());
        map<double> scores(p.data(), count, n);
        for (index_t s = 0; s < n; s += slot_tile)
          scores.middleCols(s, std::min(slot_tile, n - s)).noalias() =
              const_map<double>(query.data(), count, d) *
              const_map<double>(keys[s].data(), std::min(slot_tile, n - s), d).transpose();
        W denominator[head_tile];
        for (index_t h = 0; h < count; ++h)
          denominator[h] = W(softmax<A>(p.data() + h * n, slot.data(), n, scale, double(sink[h0 + h])));
        map<W> result(out.data(), count, d);
        result.setZero();
        if constexpr (std::is_same_v<W, double>) {
          add_values(scores, keys, n, result);
        } else {
          std::copy_n(p.data(), count * n, weights.data());
          add_values(const_map<W>(weights.data(), count, n), values, n, result);
        }
        for (index_t h = 0; h < count; ++h) result.row(h) /= denominator[h];
        cpu::store_row(out.data(), count * d, o[t][h0].data());
      }
    });
  }

  /// result += p v over the first n rows of v, tile by tile.
  template <class P>
  static void add_values(const P& p /*[h,s]*/, view<W, 2> v /*[s,d]*/, index_t n, map<W>& result /*[h,d]*/) {
    for (index_t s = 0; s < n; s += slot_tile) {
      const index_t m = std::min(slot_tile, n - s);
      // Eq. (19), (26)
      result.noalias() += p.middleCols(s, m) * const_map<W>(v[s].data(), m, v.extent(1));
    }
  }

  /// Scores of one head, in place, to stored p times the later shrinks; returns the denominator.
  template <class A>
  static double softmax(double* p, const index_t* slot, index_t n, double scale, double sink) {
    double m = -INFINITY, denominator = 0;
    for (index_t from = 0; from < n;) {
      // The filled slots of one block of 64.
      const index_t block = slot[from] / softmax_block;
      index_t to = from;
      const double before = m;
      for (; to < n && slot[to] / softmax_block == block; ++to) m = std::max(m, p[to] *= scale);
      // Earlier terms shrink by the growth of the maximum.
      if (from > 0 && m > before) {
        const double shrink = std::exp(before - m);
        denominator *= shrink;
        for (index_t s = 0; s < from; ++s) p[s] *= shrink;
      }
      for (index_t s = from; s < to; ++s) {
        const double e = std::exp(p[s] - m);  // Eq. (27)
        denominator += e;
        p[s] = rounded<A>(e);
      }
      from = to;
    }
    return denominator + std::exp(sink - m);  // Eq. (27)
  }
};

}  // namespace dsv4::kernel
