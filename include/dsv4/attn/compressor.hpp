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

#include "../num/formulas.hpp"
#include "../op/hadamard.hpp"
#include "../op/linear.hpp"
#include "../op/rms_norm.hpp"
#include "batch.hpp"
#include "weights.hpp"

namespace dsv4 {

/// Projections of consecutive tokens of one sequence, by position.
template <class W, class Mem = mem::host>
struct compressor_rows {
  ring_rows<W, Mem> kv, score;  // [p, c d]

  compressor_rows() = default;
  compressor_rows(const ring_rows<W, Mem>& k, const ring_rows<W, Mem>& s) : kv(k), score(s) {}
  /// All rows side by side, row 0 at position `first`.
  compressor_rows(index_t first, view<const W, 2, Mem> k, view<const W, 2, Mem> s)
      : kv{{}, first, k}, score{{}, first, s} {}
};

/// The entries of one sequence that close in a call: entry `from` becomes row `begin` of the batch's entries, and so
/// on before row `end`.
template <class W, class Mem = mem::host>
struct pool_part {
  compressor_rows<W, Mem> rows;
  index_t from, begin, end;
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
/// run(e, ape [ratio, c d], segments, score [t, c d]): add_ape for the rows of every sequence.
template <execution E>
struct add_ape_of_batch {
  static_assert(has_kernel<E>, "add_ape_of_batch: no kernel for this executor");
};
/// run(e, parts, ratio, pooled [c, d]): compressor_pool for the entries of every sequence.
template <execution E>
struct pool_of_batch {
  static_assert(has_kernel<E>, "pool_of_batch: no kernel for this executor");
};

template <host_execution E>
struct add_ape_of_batch<E> {
  static void run(E& e, view<const float, 2> ape, std::span<const segment> segments,
                  view<wide_t<E>, 2> score) {
    for (const segment& g : segments) add_ape<E>::run(e, ape, g.start, score.rows(g.begin, g.end));
  }
};

template <host_execution E>
struct pool_of_batch<E> {
  template <class A>
  static void run(E& e, std::span<const pool_part<wide_t<E>>> parts, index_t ratio, view<A, 2> pooled) {
    for (const pool_part<wide_t<E>>& p : parts)
      if (p.begin < p.end) compressor_pool<E>::run(e, p.rows, ratio, p.from, pooled.rows(p.begin, p.end));
  }
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
            f(rows.score.row(p)[channel(p)], rows.kv.row(p)[channel(p)]);
        };
        pooled(i, d) = store<A>(softmax_mean<double>(slots).mean);  // Eq. (11), (12), (22), (23)
      }
  }
};
}  // namespace kernel

/// Which of the two compressors: it decides the sites, and what is done to a closed entry.
enum class compressor_use { attention, indexer };

/// Feed the new tokens x of every sequence; append the entries that close to its memory's entries.
template <numerics_policy P, execution E, observer Tap>
void compress(const call_context<E, Tap>& call, const layer_batch<P, E>& batch, compressor_use use,
              view<act_t<P>, 2, mem_of<E>> x /*[t,D]*/, const compressor_weights<storage_of<E>>& w) {
  using A = act_t<P>;
  using W = wide_t<E>;
  using memory = mem_of<E>;
  const auto& [e, scratch, host, c, tap] = call;
  const typename call_context<E, Tap>::scope here(call);
  const index_t t = x.extent(0), ratio = batch.ratio, d = w.norm.extent(0);
  const bool main = use == compressor_use::attention;
  const auto of = [main](attention_state<P, E>& s) -> compressor_state<P, E>& {
    return main ? s.compressor : s.indexer;
  };

  // kv = W_kv x, score = W_gate x + ape[p mod ratio]: wide, x not quantised.
  auto kv = take<W>(scratch, t, w.wkv.rows), score = take<W>(scratch, t, w.wkv.rows);  // [t, c d]
  linear(e, x, w.wkv, kv);                                                             // Eq. (9), (20)
  linear(e, x, w.wgate, score);                                                        // Eq. (10), (21)
  kernel::add_ape_of_batch<E>::run(e, w.ape, batch.segments, score);

  // Entries that close in this call and did not come with a reused prefix.  Those of all sequences are rows of one list.
  const auto parts = take_list<pool_part<W, memory>>(host, batch.sequences());
  const auto runs = take_list<position_run>(host, batch.sequences());
  const auto appends = take_list<ring_append<A, memory>>(host, batch.sequences());
  index_t entries = 0;
  for (std::size_t i = 0; i < batch.sequences(); ++i) {
    const segment& g = batch.segments[i];
    compressor_state<P, E>& state = of(*batch.states[i]);
    const index_t from = std::max(g.start / ratio, state.reused_entries), to = (g.start + g.tokens()) / ratio;
    const index_t begin = entries, end = begin + std::max(to - from, index_t{0});
    expects(to <= state.entries.extent(0), "compress: more tokens than the sequence was made for");
    // Rows that a closing entry needs from earlier calls are still in the rings, which are written below.
    const auto rows_of = [&](const history<W, memory>& ring, view<W, 2, memory> fresh) {
      return ring_rows<W, memory>{ring.ring(), g.start, fresh.rows(g.begin, g.end)};
    };
    parts[i] = {{rows_of(state.kv, kv), rows_of(state.score, score)}, from, begin, end};
    runs[i] = {begin, end, from * ratio, ratio};  // an entry stands at the first token of its block
    appends[i] = {begin, end, from, state.entries};
    entries = end;
  }
  if (entries > 0) {
    auto entry = take<A>(scratch, entries, d);  // [c, d]
    kernel::pool_of_batch<E>::run(e, std::span<const pool_part<W, memory>>(parts), ratio, entry);
    tap.parts(main ? site::compressor_pooled : site::indexer_compressor_pooled, entry, parts);
    rms_norm(e, entry, w.norm, c.rms_norm_eps, entry);
    tap.parts(main ? site::compressor_norm : site::indexer_compressor_norm, entry, parts);
    const index_t pairs = c.qk_rope_head_dim / 2;
    const basic_rotary_angles<memory> angles{take<float>(scratch, entries, pairs),
                                             take<float>(scratch, entries, pairs)};
    kernel::set_angles<E>::run(e, std::span<const position_run>(runs), batch.rotary.inv_freq, angles);
    rope(e, entry.reshape(entries, 1, d), angles);
    if constexpr (P::quantised) {
      if (main) {
        act_quant_in_place(e, entry, d - c.qk_rope_head_dim, kv_quant_block);
      } else {
        hadamard(e, entry);
        fp4_act_quant(e, entry);
      }
    }
    tap.parts(main ? site::compressor_entry : site::indexer_compressor_entry, entry, parts);
    kernel::append_rows<E>::run(e, view<const A, 2, memory>(entry),
                                std::span<const ring_append<A, memory>>(appends));
  }
  append_to_rings(call, batch, kv, [&](attention_state<P, E>& s) -> auto& { return of(s).kv; });
  append_to_rings(call, batch, score, [&](attention_state<P, E>& s) -> auto& { return of(s).score; });
}

}  // namespace dsv4
