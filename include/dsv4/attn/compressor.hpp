// SPDX-License-Identifier: MIT
#pragma once
/// Token compressor: every `ratio` tokens become one entry, a per-channel softmax-weighted mean.
/// @paper{DSV4, Eq. (9)-(12) (CSA), (20)-(23) (HCA)}
/// axes     t token · p position · c d channels of the projections (c = 2 halves for CSA) · s slot
/// oracle   model.py, Compressor.forward
/// deviates none
///
/// CSA (ratio 4) overlaps: entry i pools the 4 tokens of block i-1 with channels [0, d) (the paper's b)
/// and the 4 tokens of block i with channels [d, 2d) (the paper's a).  The low half of a token's
/// channels therefore belongs to the NEXT block.  Entry 0 has only its own 4 slots.  HCA pools its own
/// block.  An entry closes with the last token of its block and is rotated at the block's FIRST token.
/// @post (1) an entry lies, per channel, between the least and the greatest of its slots
///       (2) entries do not depend on how the tokens were split into calls
#include <cmath>

#include "../core/tap.hpp"
#include "../num/formulas.hpp"
#include "../op/hadamard.hpp"
#include "../op/linear.hpp"
#include "../op/rms_norm.hpp"
#include "../op/rope.hpp"
#include "kv_cache.hpp"
#include "weights.hpp"

namespace dsv4 {

/// Projections of consecutive tokens, row 0 at position `first`.
template <class W>
struct compressor_rows {
  index_t first;
  view<const W, 2> kv, score;  // [p, c d]
};

namespace kernel {
/// run(e, ape [ratio, c d], start, score [t, c d]): score of position p += ape[p mod ratio].
template <execution E>
struct add_ape {
  static_assert(has_kernel<E>, "add_ape: no kernel for this executor");
};
/// run(e, rows, ratio, from, pooled [entries, d]): entries from, from + 1, …; one store each.
template <execution E>
struct compressor_pool {
  static_assert(has_kernel<E>, "compressor_pool: no kernel for this executor");
};

template <>
struct add_ape<exec::ref> {
  static void run(exec::ref&, view<const float, 2> ape, index_t start, view<double, 2> score) {
    for (index_t t = 0; t < score.extent(0); ++t)
      for (index_t d = 0; d < score.extent(1); ++d)
        score(t, d) += double(ape((start + t) % ape.extent(0), d));  // Eq. (11), (22)
  }
};

template <>
struct compressor_pool<exec::ref> {
  template <class A>
  static void run(exec::ref&, const compressor_rows<double>& rows, index_t ratio, index_t from,
                  view<A, 2> pooled) {
    const bool overlap = kind_of_ratio(ratio) == attention_kind::csa;
    for (index_t i = 0; i < pooled.extent(0); ++i)
      for (index_t d = 0; d < pooled.extent(1); ++d) {
        const index_t own = (from + i) * ratio;  // position of the block's first token
        const index_t begin = overlap && own > 0 ? own - ratio : own;
        // Channel of slot p: the low half looks ahead from the previous block, the high half is its own.
        const auto channel = [&](index_t p) { return overlap && p >= own ? d + pooled.extent(1) : d; };
        const auto slots = [&](auto f) {
          for (index_t p = begin; p < own + ratio; ++p)
            f(rows.score(p - rows.first, channel(p)), rows.kv(p - rows.first, channel(p)));
        };
        pooled(i, d) = store<A>(softmax_mean<double>(slots).mean);  // Eq. (11), (12), (22), (23)
      }
  }
};
}  // namespace kernel

/// Which compressor: decides the sites and what is done to a closed entry.
enum class compressor_use { attention, indexer };

/// Feed the tokens x of one sequence, positions start …; append the entries that close to state.entries.
/// `sequence` numbers the sequence for taps.
template <numerics_policy P, execution E, observer Tap>
void compress(E& e, workspace& scratch, const tapper<Tap>& tap, index_t sequence, const config& c,
              index_t ratio, view<act_t<P>, 2> x /*[t,D]*/, index_t start,
              view<const float, 1> inv_freq /*[rd/2]*/, const compressor_weights<>& w, compressor_use use,
              compressor_state<P, E>& state) {
  using W = wide_t<E>;
  workspace::scope here(scratch);
  const index_t t = x.extent(0), width = w.wkv.rows, d = w.norm.extent(0);
  const bool overlap = kind_of_ratio(ratio) == attention_kind::csa;

  // Rows that closing entries may still need from earlier calls, then the new ones, by position.
  const index_t open = start / ratio * ratio;  // first token of the open block
  const index_t first = overlap ? std::max(index_t{0}, open - ratio) : open;
  const index_t kept = start - first;
  auto kv = scratch.take<W>(kept + t, width);     // [p, c d]
  auto score = scratch.take<W>(kept + t, width);  // [p, c d]
  state.kv.read(first, start, kv.rows(0, kept));
  state.score.read(first, start, score.rows(0, kept));

  // kv = W_kv x, score = W_gate x + ape[p mod ratio]: wide, x not quantised.
  const auto new_kv = kv.rows(kept, kept + t), new_score = score.rows(kept, kept + t);
  linear(e, x, w.wkv, new_kv);       // Eq. (9), (20)
  linear(e, x, w.wgate, new_score);  // Eq. (10), (21)
  kernel::add_ape<E>::run(e, w.ape, start, new_score);
  state.kv.write(start, new_kv);
  state.score.write(start, new_score);

  // Entries that close in this call and are not there already.
  const index_t from = std::max(start / ratio, state.given), to = (start + t) / ratio;
  if (from >= to) return;
  expects(to <= state.entries.extent(0), "compress: more tokens than the sequence was made for");
  const bool main = use == compressor_use::attention;
  auto entry = state.entries.all().rows(from, to);  // [c, d]

  kernel::compressor_pool<E>::run(e, compressor_rows<W>{first, kv, score}, ratio, from, entry);
  tap.one(main ? site::compressor_pooled : site::indexer_compressor_pooled, sequence, entry);
  rms_norm(e, entry, w.norm, c.rms_norm_eps, entry);
  tap.one(main ? site::compressor_norm : site::indexer_compressor_norm, sequence, entry);
  // Rotated at the position of the block's first token.
  const rotary_angles angles{scratch.take<float>(to - from, c.qk_rope_head_dim / 2),
                             scratch.take<float>(to - from, c.qk_rope_head_dim / 2)};
  for (index_t i = from; i < to; ++i) angles.set(i - from, i * ratio, inv_freq);
  rope(e, entry.reshape(to - from, 1, d), angles);
  if constexpr (P::quantised) {
    if (main) {
      act_quant_in_place(e, entry, d - c.qk_rope_head_dim, kv_quant_block);
    } else {
      hadamard(e, entry);
      fp4_act_quant(e, entry);
    }
  }
  tap.one(main ? site::compressor_entry : site::indexer_compressor_entry, sequence, entry);
}

}  // namespace dsv4
