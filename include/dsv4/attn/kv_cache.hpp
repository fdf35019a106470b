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

#include "../core/config.hpp"
#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../core/tensor.hpp"
#include "../num/policy.hpp"

namespace dsv4 {

/// The latest rows of a growing list of rows: row of position p lies at p mod capacity.
template <class T>
class history {
 public:
  history() = default;
  history(index_t capacity, index_t width) : rows_(capacity, width) {}

  index_t capacity() const { return rows_.extent(0); }
  index_t width() const { return rows_.extent(1); }
  view<const T, 1> row(index_t p) const { return rows_[p % capacity()]; }

  /// Copy rows of positions [from, to) to `out`.
  void read(index_t from, index_t to, view<T, 2> out /*[to-from,d]*/) const {
    for (index_t p = from; p < to; ++p) std::copy_n(row(p).data(), width(), out[p - from].data());
  }
  /// Remember `rows`, the first of which has position `start`; only the last `capacity` can stay.
  void write(index_t start, view<const T, 2> rows /*[t,d]*/) {
    const index_t n = rows.extent(0);
    for (index_t t = std::max(index_t{0}, n - capacity()); t < n; ++t)
      std::copy_n(rows[t].data(), width(), rows_[(start + t) % capacity()].data());
  }

 private:
  tensor<T, 2> rows_;  // [capacity, d]
};

/// A compressor's memory: projections of the tokens of the open (and for CSA the previous) block, and
/// the closed entries.  `score` has ape added.
template <numerics_policy P, execution E>
struct compressor_state {
  history<wide_t<E>> kv, score;  // [2 ratio or ratio, + max_rewind; c d]
  tensor<act_t<P>, 2> entries;   // [max tokens / ratio, d]
  index_t given = 0;             // entries below this were put there (gen/prefix_cache.hpp): not pooled again

  compressor_state() = default;
  compressor_state(index_t ratio, index_t d, index_t max_tokens, index_t max_rewind)
      : kv(blocks(ratio) * ratio + max_rewind, blocks(ratio) * d),
        score(blocks(ratio) * ratio + max_rewind, blocks(ratio) * d),
        entries(max_tokens / ratio, d) {}

  /// Is this the memory of such a compressor?  ratio 0: of none.
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
  history<act_t<P>> window;           // [W + max_rewind, hd]
  compressor_state<P, E> compressor;  // ratio > 0
  compressor_state<P, E> indexer;     // ratio 4

  attention_state() = default;
  attention_state(const config& c, index_t ratio, index_t max_tokens, index_t max_rewind)
      : window(c.sliding_window + max_rewind, c.head_dim) {
    if (ratio > 0) compressor = {ratio, c.head_dim, max_tokens, max_rewind};
    if (kind_of_ratio(ratio) == attention_kind::csa)
      indexer = {ratio, c.index_head_dim, max_tokens, max_rewind};
  }

  /// Would the constructor, given the same, make memory of these sizes?
  bool fits(const config& c, index_t ratio, index_t max_tokens, index_t max_rewind) const {
    const index_t indexed = kind_of_ratio(ratio) == attention_kind::csa ? ratio : 0;
    return window.capacity() == c.sliding_window + max_rewind && window.width() == c.head_dim &&
           compressor.fits(ratio, c.head_dim, max_tokens, max_rewind) &&
           indexer.fits(indexed, c.index_head_dim, max_tokens, max_rewind);
  }
};

}  // namespace dsv4
