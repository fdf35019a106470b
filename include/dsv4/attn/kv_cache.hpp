// SPDX-License-Identifier: MIT
#pragma once
/// What attention remembers of a sequence: the window, the compressed entries, the open block.
/// @paper{DSV4, section 3.5.1}
/// axes     p position · d channel
/// oracle   golden/official cache.L.kv; Attention.kv_cache and Compressor.kv_state
/// deviates rings are longer than the window by `max_rewind` rows, so that a sequence can be taken back
///          (speculative decoding); nothing about the length is stored here: counts follow from it
///
/// Everything is addressed by position.  The state of a sequence of length n is a function of its
/// first n tokens: entries [0, n / ratio), rows [n - kept, n) of each ring.  Rows past the length are
/// never read, so a new sequence needs no clearing and a rewind is a smaller n.
#include <algorithm>
#include <span>

#include "../core/config.hpp"
#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../core/tensor.hpp"
#include "../num/policy.hpp"

namespace dsv4 {

/// The latest rows of a growing list of rows: row of position p lies at p mod capacity.
template <class T, class Mem = mem::host>
class history {
 public:
  history() = default;
  history(index_t capacity, index_t width) : rows_(capacity, width) {}

  index_t capacity() const { return rows_.extent(0); }
  index_t width() const { return rows_.extent(1); }
  view<const T, 1, Mem> row(index_t p) const { return rows_.all()[p % capacity()]; }
  /// The ring itself, [capacity, d], for kernels.
  view<const T, 2, Mem> ring() const { return rows_; }
  view<T, 2, Mem> ring() { return rows_; }

  /// Copy rows of positions [from, to) to `out`, which may lie in another memory space.
  template <execution E, class To>
  void read(E& e, index_t from, index_t to, view<T, 2, To> out /*[to-from,d]*/) const {
    each_piece(from, to, [&](index_t p, index_t at, index_t n) {
      copy(e, ring().rows(at, at + n), out.rows(p - from, p - from + n));
    });
  }
  /// Remember `rows`, the first of which has position `start`; only the last `capacity` can stay.
  template <execution E, class From>
  void write(E& e, index_t start, view<const T, 2, From> rows /*[t,d]*/) {
    const index_t end = start + rows.extent(0);
    each_piece(std::max(start, end - capacity()), end, [&](index_t p, index_t at, index_t n) {
      copy(e, rows.rows(p - start, p - start + n), ring().rows(at, at + n));
    });
  }
  // The same in host memory, where no executor is needed.
  void read(index_t from, index_t to, view<T, 2> out) const
    requires host_memory<Mem>
  {
    exec::ref host;
    read(host, from, to, out);
  }
  void write(index_t start, view<const T, 2> rows)
    requires host_memory<Mem>
  {
    exec::ref host;
    write(host, start, rows);
  }

 private:
  /// f(position, row of the ring, number of rows) for the contiguous pieces of positions [from, to).
  template <class F>
  void each_piece(index_t from, index_t to, F f) const {
    for (index_t p = from; p < to;) {
      const index_t at = p % capacity(), n = std::min(to - p, capacity() - at);
      f(p, at, n);
      p += n;
    }
  }

  tensor<T, 2, Mem> rows_;  // [capacity, d]
};

/// Rows of consecutive positions: those before `start` still lie in a ring, the others are a call's own.
template <class T, class Mem = mem::host>
struct ring_rows {
  view<const T, 2, Mem> ring;   // [capacity, d] row of position p at p mod capacity
  index_t start = 0;            // position of the first row of `fresh`
  view<const T, 2, Mem> fresh;  // [t, d] the call's own rows

  DSV4_HOST_DEVICE const T* row(index_t p) const
    requires host_memory<Mem>
  {
    return (p < start ? ring[p % ring.extent(0)] : fresh[p - start]).data();
  }
};

/// Rows [begin, end) of a batch go into a ring, the first of them to position `start`.
template <class T, class Mem = mem::host>
struct ring_append {
  index_t begin, end, start;
  view<T, 2, Mem> ring;  // [capacity, d]
};

namespace kernel {
/// run(e, rows [t, d], appends): every sequence's rows into its ring; only the last `capacity` can stay.
template <execution E>
struct append_rows {
  static_assert(has_kernel<E>, "append_rows: no kernel for this executor");
};
template <host_execution E>
struct append_rows<E> {
  template <class T>
  static void run(E&, view<const T, 2> rows, std::span<const ring_append<T>> appends) {
    for (const ring_append<T>& a : appends) {
      const index_t capacity = a.ring.extent(0);
      for (index_t t = std::max(a.begin, a.end - capacity); t < a.end; ++t)
        std::copy_n(rows[t].data(), rows.extent(1), a.ring[(a.start + t - a.begin) % capacity].data());
    }
  }
};
}  // namespace kernel

/// A compressor's memory: projections of the tokens of the open (and for CSA the previous) block, and
/// the closed entries.  `score` has ape added.
template <numerics_policy P, execution E>
struct compressor_state {
  history<wide_t<E>, mem_of<E>> kv, score;  // [2 ratio or ratio, + max_rewind; c d]
  tensor<act_t<P>, 2, mem_of<E>> entries;   // [max tokens / ratio, d]
  index_t reused_entries =
      0;  // so many entries came with a reused prefix (gen/prefix_cache.hpp); they are not pooled again

  compressor_state() = default;
  compressor_state(index_t ratio, index_t d, index_t max_tokens, index_t max_rewind)
      : kv(checked_add(blocks(ratio) * ratio, max_rewind, "sequence: rows"), blocks(ratio) * d),
        score(kv.capacity(), kv.width()),
        entries(max_tokens / ratio, d) {}

  /// Whether this is the memory of a compressor with these sizes; ratio 0: of no compressor.
  bool fits(index_t ratio, index_t d, index_t max_tokens, index_t max_rewind) const {
    if (ratio == 0) return kv.capacity() == 0;
    return kv.capacity() == blocks(ratio) * ratio + max_rewind && kv.width() == blocks(ratio) * d &&
           entries.extent(0) == max_tokens / ratio && entries.extent(1) == d;
  }

  /// CSA entries look back one block (c = 2 halves of the channels); HCA entries do not.
  static index_t blocks(index_t ratio) { return ratio == csa_ratio ? 2 : 1; }
};

/// One layer's memory of one sequence.
template <numerics_policy P, execution E>
struct attention_state {
  history<act_t<P>, mem_of<E>> window;  // [W + max_rewind, hd]
  compressor_state<P, E> compressor;    // ratio > 0
  compressor_state<P, E> indexer;       // ratio 4

  attention_state() = default;
  attention_state(const config& c, index_t ratio, index_t max_tokens, index_t max_rewind)
      : window(checked_add(c.sliding_window, max_rewind, "sequence: window rows"), c.head_dim) {
    if (ratio > 0) compressor = {ratio, c.head_dim, max_tokens, max_rewind};
    if (kind_of_ratio(ratio) == attention_kind::csa)
      indexer = {ratio, c.index_head_dim, max_tokens, max_rewind};
  }

  /// Whether the constructor, called with these arguments, would make memory of the sizes that this has.
  bool fits(const config& c, index_t ratio, index_t max_tokens, index_t max_rewind) const {
    const index_t indexed = kind_of_ratio(ratio) == attention_kind::csa ? ratio : 0;
    return window.capacity() == c.sliding_window + max_rewind && window.width() == c.head_dim &&
           compressor.fits(ratio, c.head_dim, max_tokens, max_rewind) &&
           indexer.fits(indexed, c.index_head_dim, max_tokens, max_rewind);
  }
};

}  // namespace dsv4
