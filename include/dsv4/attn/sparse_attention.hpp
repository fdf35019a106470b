// SPDX-License-Identifier: MIT
#pragma once
/// Core attention: one softmax over the window, the chosen entries and the sink.
/// @paper{DSV4, Eq. (19), (26), (27)}
/// axes     t query token · h head · d channel · s slot
/// oracle   kernel.py, sparse_attn
/// deviates none
///
/// Keys are values and shared by all heads.  The slots of a query, in this order: W window slots (the
/// positions max(0, p-W+1) … p, then empty ones up to W), then the chosen entries.  The softmax runs
/// over blocks of 64 slots, empty slots skipped: running maximum m, p = exp(score - m) stored for the
/// product with the values while the denominator sums p before that store.  The learned sink joins the
/// denominator only.
/// @post (1) a very low sink gives the plain softmax   (2) a very high one gives o -> 0, finite
#include <cmath>
#include <limits>

#include "../num/formulas.hpp"
#include "../num/round.hpp"
#include "batch.hpp"

namespace dsv4 {

/// Softmax block of the released kernel; decides which p are stored relative to which maximum.
inline constexpr index_t softmax_block = 64;

/// What the queries of one sequence can attend to.
template <class A, class Mem = mem::host>
struct attention_slots {
  index_t start;                            // position of query 0
  index_t window;                           // W
  ring_rows<A, Mem> recent;                 // [p, d] window rows by position
  view<const A, 2, Mem> entries;            // [s, d] compressed entries
  view<const std::int32_t, 2, Mem> chosen;  // [t, k] entries of each query, -1 empty

  DSV4_HOST_DEVICE index_t slots() const { return window + chosen.extent(1); }
  /// Row of slot s for query t, or null if the slot is empty.
  DSV4_HOST_DEVICE const A* row(index_t t, index_t s) const
    requires host_memory<Mem>
  {
    const index_t position = start + t, oldest = larger(index_t{0}, position - window + 1);
    if (s < window) return oldest + s <= position ? recent.row(oldest + s) : nullptr;
    const index_t entry = chosen(t, s - window);
    return entry >= 0 ? entries[entry].data() : nullptr;
  }
};

namespace kernel {
/// run(e, q [t, h, d], segments, slots, sink [h], scale, o [t, h, d]): sparse_attention for every sequence.
template <execution E>
struct core_attention {
  static_assert(has_kernel<E>, "core_attention: no kernel for this executor");
};
/// run(e, q [t, h, d], slots, sink [h], scale, o [t, h, d]).
template <execution E>
struct sparse_attention {
  static_assert(has_kernel<E>, "sparse_attention: no kernel for this executor");
};

template <host_execution E>
struct core_attention<E> {
  template <class A>
  static void run(E& e, view<const A, 3> q, std::span<const segment> segments,
                  std::span<const attention_slots<A>> slots, view<const float, 1> sink, double scale,
                  view<A, 3> o) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const segment& g = segments[i];
      sparse_attention<E>::run(e, q.rows(g.begin, g.end), slots[i], sink, scale, o.rows(g.begin, g.end));
    }
  }
};

template <>
struct sparse_attention<exec::ref> {
  // einsum: h d, s d -> h s; softmax over s; h s, s d -> h d   (for each t)
  template <class A>
  static void run(exec::ref&, view<const A, 3> q, const attention_slots<A>& slots, view<const float, 1> sink,
                  double scale, view<A, 3> o) {
    const index_t dims = q.extent(2), n = slots.slots();
    tensor<double, 1> acc(dims), score(softmax_block);
    for (index_t t = 0; t < q.extent(0); ++t)
      for (index_t h = 0; h < q.extent(1); ++h) {
        double m = -INFINITY, denominator = 0;  // running maximum and sum
        std::fill(acc.data(), acc.data() + dims, 0.0);
        for (index_t block = 0; block < n; block += softmax_block) {
          const index_t end = std::min(block + softmax_block, n);
          // Scores of the block's slots, and the new maximum.
          const double m_old = m;
          for (index_t s = block; s < end; ++s) {
            const A* k = slots.row(t, s);
            if (!k) continue;
            double dot = 0;
            for (index_t d = 0; d < dims; ++d) dot += widen<double>(q(t, h, d)) * widen<double>(k[d]);
            score[s - block] = dot * scale;
            m = std::max(m, score[s - block]);
          }
          if (m == -INFINITY) continue;  // nothing seen yet
          // Earlier sums shrink by exp(m_old - m); then the block's own terms.
          const double shrink = std::exp(m_old - m);
          denominator *= shrink;
          for (index_t d = 0; d < dims; ++d) acc[d] *= shrink;
          for (index_t s = block; s < end; ++s) {
            const A* v = slots.row(t, s);
            if (!v) continue;
            const double p = std::exp(score[s - block] - m);  // Eq. (27)
            denominator += p;
            const double stored = rounded<A>(p);
            for (index_t d = 0; d < dims; ++d) acc[d] += stored * widen<double>(v[d]);  // Eq. (19), (26)
          }
        }
        // The sink takes a share of the softmax but has no value: it only enlarges the denominator.
        denominator += std::exp(double(sink[h]) - m);  // Eq. (27)
        for (index_t d = 0; d < dims; ++d) o(t, h, d) = store<A>(acc[d] / denominator);
      }
  }
};
}  // namespace kernel

/// The factor of every score, head_dim^-1/2.
inline double attention_scale(index_t head_dim) { return 1 / std::sqrt(double(head_dim)); }

/// o of the queries of one sequence.  @throws contract_violation on shapes.
template <execution E, class A>
void sparse_attention(E& e, view<A, 3, mem_of<E>> q /*[t,h,d]*/, const attention_slots<A, mem_of<E>>& slots,
                      view<const float, 1, mem_of<E>> sink /*[h]*/, view<A, 3, mem_of<E>> o /*[t,h,d]*/) {
  expects(q.extents() == o.extents(), "sparse_attention: q and o disagree");
  expects_equal(sink.extent(0), q.extent(1), "sparse_attention: sinks against heads");
  kernel::sparse_attention<E>::run(e, view<const A, 3, mem_of<E>>(q), slots, sink,
                                   attention_scale(q.extent(2)), o);
}

/// o of the queries of a batch, slots[i] for the rows of segments[i].  @throws contract_violation on shapes.
template <execution E, class A>
void core_attention(E& e, view<A, 3, mem_of<E>> q /*[t,h,d]*/, std::span<const segment> segments,
                    std::span<const attention_slots<A, mem_of<E>>> slots,
                    view<const float, 1, mem_of<E>> sink /*[h]*/, view<A, 3, mem_of<E>> o /*[t,h,d]*/) {
  expects(q.extents() == o.extents(), "core_attention: q and o disagree");
  expects_equal(sink.extent(0), q.extent(1), "core_attention: sinks against heads");
  kernel::core_attention<E>::run(e, view<const A, 3, mem_of<E>>(q), segments, slots, sink,
                                 attention_scale(q.extent(2)), o);
}

}  // namespace dsv4
