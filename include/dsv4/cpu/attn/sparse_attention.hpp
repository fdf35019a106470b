// SPDX-License-Identifier: MIT
#pragma once
/// Fast core attention: block of slots by block, two dense products per tile of heads over rows that are widened once.
/// @paper{DSV4, Eq. (19), (26), (27)}
///
/// The filled rows of a block of 64 slots are widened, and stay in the cache for all heads of the task: scores
/// [heads, slots] and the block's part of the output [heads, d] are Eigen products.  Maximum, denominator and output run
/// along the blocks as in the specification.  The division by the denominator comes after the product with the values:
/// stored p times stored v is exact, so that terms which cancel exactly give exactly 0, as in the specification.  Head
/// tiles are fixed, so that the number of threads changes no product's shape.
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
    const index_t heads = q.extent(1), tiles = (heads + head_tile - 1) / head_tile;
    cpu::parallel_for(q.extent(0) * tiles, 1, [&](index_t from, index_t to) {
      // The task's tiles of one token after the other.
      for (index_t task = from; task < to;) {
        const index_t t = task / tiles, end = std::min(to, (t + 1) * tiles);
        of_heads(t, task % tiles * head_tile, std::min((end - t * tiles) * head_tile, heads), q, slots, sink,
                 scale, o);
        task = end;
      }
    });
  }

 private:
  /// Heads [h0, h1) of query t.
  template <class A>
  static void of_heads(index_t t, index_t h0, index_t h1, view<const A, 3> q, const attention_slots<A>& slots,
                       view<const float, 1> sink, double scale, view<A, 3> o) {
    const index_t d = q.extent(2), heads = h1 - h0;
    workspace& scratch = cpu::local_scratch();
    workspace::scope here(scratch);
    auto keys = scratch.take<double>(softmax_block, d);         // [s, d] the block's filled slots
    auto values = scratch.take<W>(softmax_block, d);            // [s, d] keys as W
    auto query = scratch.take<double>(heads, d);                // [h, d]
    auto p = scratch.take<double>(head_tile * softmax_block);   // [h, s]
    auto weights = scratch.take<W>(head_tile * softmax_block);  // [h, s] p as W
    auto out = scratch.take<W>(heads, d);                       // [h, d]
    auto sums = scratch.take<running>(heads);
    cpu::widen_row(q[t][h0].data(), heads * d, query.data());
    std::fill(out.begin(), out.end(), W(0));
    std::fill(sums.begin(), sums.end(), running{});
    for (index_t block = 0; block < slots.slots(); block += softmax_block) {
      index_t n = 0;
      for (index_t s = block; s < std::min(block + softmax_block, slots.slots()); ++s)
        if (const A* row = slots.row(t, s)) {
          cpu::widen_row(row, d, keys[n].data());
          if constexpr (!std::is_same_v<W, double>) cpu::widen_row(row, d, values[n].data());
          ++n;
        }
      if (n == 0) continue;
      for (index_t h = 0; h < heads; h += head_tile) {
        const index_t count = std::min(head_tile, heads - h);
        map<double> scores(p.data(), count, n);
        for (index_t s = 0; s < n; s += slot_tile)
          scores.middleCols(s, std::min(slot_tile, n - s)).noalias() =
              const_map<double>(query[h].data(), count, d) *
              const_map<double>(keys[s].data(), std::min(slot_tile, n - s), d).transpose();
        map<W> result(out[h].data(), count, d);
        for (index_t i = 0; i < count; ++i) {
          const double shrink = sums[h + i].template add<A>(p.data() + i * n, n, scale);
          if (shrink != 1) result.row(i) *= W(shrink);
        }
        if constexpr (std::is_same_v<W, double>) {
          add_values(scores, keys, n, result);
        } else {
          std::copy_n(p.data(), count * n, weights.data());
          add_values(const_map<W>(weights.data(), count, n), values, n, result);
        }
      }
    }
    for (index_t h = 0; h < heads; ++h) {
      const running& r = sums[h];
      map<W>(out[h].data(), 1, d) /=
          W(r.denominator + std::exp(double(sink[h0 + h]) - r.maximum));  // Eq. (27)
    }
    cpu::store_row(out.data(), heads * d, o[t][h0].data());
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

  /// Maximum and denominator of one head over the blocks so far.
  struct running {
    double maximum = -INFINITY, denominator = 0;

    /// A block's n scores, in place, to stored p; returns what sums over earlier blocks shrink by.
    template <class A>
    double add(double* p, index_t n, double scale) {
      const double before = maximum;
      for (index_t s = 0; s < n; ++s) maximum = std::max(maximum, p[s] *= scale);
      const double shrink = maximum > before ? std::exp(before - maximum) : 1;
      denominator *= shrink;
      for (index_t s = 0; s < n; ++s) {
        const double e = std::exp(p[s] - maximum);  // Eq. (27)
        denominator += e;
        p[s] = rounded<A>(e);
      }
      return shrink;
    }
  };
};

}  // namespace dsv4::kernel
