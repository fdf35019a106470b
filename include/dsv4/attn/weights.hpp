// SPDX-License-Identifier: MIT
#pragma once
/// Weights of one attention: projections, compressor, indexer.
/// @paper{DSV4, section 2.3}
/// axes     docs/notation.md
/// oracle   golden/checkpoint_layout (every name and shape)
/// deviates none
#include <optional>
#include <vector>

#include "../num/weight_info.hpp"

namespace dsv4 {

/// Token compressor: c = 2 for CSA (overlapping blocks), 1 for HCA; d = head_dim or index_head_dim.
template <class Storage = storage::stored>
struct compressor_weights {
  typename Storage::matrix wkv, wgate;        // [c d, D]
  typename Storage::template values<2> ape;   // [ratio, c d]
  typename Storage::template values<1> norm;  // [d]
};

/// Lightning indexer (CSA layers).
template <class Storage = storage::stored>
struct indexer_weights {
  typename Storage::matrix wq_b;          // [ih id, qr]
  typename Storage::matrix weights_proj;  // [ih, D]
  compressor_weights<Storage> compressor;
};

template <class Storage = storage::stored>
struct attention_weights {
  typename Storage::matrix wq_a;                          // [qr, D]
  typename Storage::template values<1> q_norm;            // [qr]
  typename Storage::matrix wq_b;                          // [H hd, qr]
  typename Storage::matrix wkv;                           // [hd, D]
  typename Storage::template values<1> kv_norm;           // [hd]
  typename Storage::template values<1> attn_sink;         // [H]
  typename Storage::matrix wo_a;                          // [g r, H hd / g]
  typename Storage::matrix wo_b;                          // [D, g r]
  std::optional<compressor_weights<Storage>> compressor;  // ratio > 0
  std::optional<indexer_weights<Storage>> indexer;        // ratio 4
};

template <class Walk, class... W>
void walk_compressor(Walk& at, index_t ratio, index_t width, W&... w) {
  // CSA blocks overlap: half b is for the next block, half a for the block itself.  In the report, and so
  // for Muon, the halves are matrices of their own.
  const std::vector<index_t> halves(kind_of_ratio(ratio) == attention_kind::csa ? 2 : 1, width);
  const index_t rows = static_cast<index_t>(halves.size()) * width;
  const weight_axis hidden{at.c.hidden_size, channel_kind::hidden};
  at(plain_weight("wkv", rows, hidden).of_matrices(halves), w.wkv...);
  at(plain_weight("wgate", rows, hidden).of_matrices(halves), w.wgate...);
  at(weight_info("ape", {ratio, rows}, weight_format::f32, update_rule::adamw, initial_value::zero),
     w.ape...);
  at(norm_weight("norm", width), w.norm...);
}

template <class Walk, class... W>
void walk_attention(Walk& at, index_t ratio, W&... w) {
  const config& c = at.c;
  const weight_axis hidden{c.hidden_size, channel_kind::hidden},
      rank{c.q_lora_rank, channel_kind::query_rank},
      ranks{c.o_groups * c.o_lora_rank, channel_kind::output_rank};
  const index_t heads = c.num_attention_heads * c.head_dim;
  at(projection_weight("wq_a", rank, hidden), w.wq_a...);
  at(norm_weight("q_norm", rank), w.q_norm...);
  at(projection_weight("wq_b", heads, rank), w.wq_b...);
  at(projection_weight("wkv", c.head_dim, hidden), w.wkv...);
  at(norm_weight("kv_norm", c.head_dim), w.kv_norm...);
  at(weight_info("attn_sink", {c.num_attention_heads}, weight_format::f32, update_rule::adamw,
                 initial_value::zero),
     w.attn_sink...);
  // Each group of heads has a projection of its own.
  const std::vector<index_t> groups(static_cast<std::size_t>(c.o_groups), c.o_lora_rank);
  at(projection_weight("wo_a", ranks, heads / c.o_groups).of_matrices(groups), w.wo_a...);
  at(projection_weight("wo_b", hidden, ranks), w.wo_b...);
  if (detail::first_of(w...).compressor)
    at.in("compressor.", [&] { walk_compressor(at, ratio, c.head_dim, *w.compressor...); });
  if (detail::first_of(w...).indexer)
    at.in("indexer.", [&] {
      at(projection_weight("wq_b", c.index_n_heads * c.index_head_dim, rank), w.indexer->wq_b...);
      at(plain_weight("weights_proj", c.index_n_heads, hidden), w.indexer->weights_proj...);
      at.in("compressor.", [&] { walk_compressor(at, ratio, c.index_head_dim, w.indexer->compressor...); });
    });
}

}  // namespace dsv4
