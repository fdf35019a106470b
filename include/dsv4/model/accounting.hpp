// SPDX-License-Identifier: MIT
#pragma once
/// What a configuration costs: parameters, and bytes of KV cache per token.
/// @paper{DSV4, Table 1 and section 2.3.4}
/// axes     docs/notation.md
/// oracle   golden/checkpoint_layout (every shape)
/// deviates none
///
/// A parameter is a number that was trained: an FP4 byte holds two, a block scale holds none, the
/// table of hash routing is no parameter.  Active are those that one token meets: all but the routed
/// experts it is not sent to, and, as usual, not the rows of the embedding table.
#include "../core/config.hpp"

namespace dsv4 {

/// Parameters of one block: attention, mHC, norms, gate, shared expert; and its routed experts.
struct block_parameters {
  index_t fixed = 0;       ///< met by every token
  index_t per_expert = 0;  ///< of one routed expert
};

struct parameter_count {
  index_t total = 0;      ///< the model without MTP
  index_t active = 0;     ///< of total, without the embedding table
  index_t embedding = 0;  ///< the table [V, D]; part of total
  index_t mtp = 0;        ///< all MTP blocks
};

namespace detail {

/// Two projections, position bias and norm; CSA has two halves.
constexpr index_t compressor_parameters(const config& c, index_t ratio, index_t width) {
  const index_t out = (kind_of_ratio(ratio) == attention_kind::csa ? 2 : 1) * width;
  return 2 * out * c.hidden_size + ratio * out + width;
}

inline block_parameters count_block(const config& c, index_t ratio, bool hash) {
  const index_t d = c.hidden_size, heads = c.num_attention_heads * c.head_dim, n = c.hc_mult;
  const attention_kind kind = kind_of_ratio(ratio);

  // Attention: query latent, queries, the one key = value head, grouped output, sinks.
  index_t fixed = c.q_lora_rank * (d + 1 + heads) + c.head_dim * (d + 1) + c.o_lora_rank * heads +
                  d * c.o_groups * c.o_lora_rank + c.num_attention_heads;
  if (kind != attention_kind::window) fixed += compressor_parameters(c, ratio, c.head_dim);
  if (kind == attention_kind::csa)
    fixed += c.index_n_heads * (c.index_head_dim * c.q_lora_rank + d) +
             compressor_parameters(c, ratio, c.index_head_dim);

  // mHC around both sublayers (fn, base, scale), and the two norms.
  fixed += 2 * (c.hc_mixes() * (n * d + 1) + 3) + 2 * d;

  // Gate, its selection bias, shared experts.
  const index_t expert = 3 * d * c.moe_intermediate_size;
  fixed += c.n_routed_experts * d + (hash ? 0 : c.n_routed_experts) + c.n_shared_experts * expert;
  return {fixed, expert};
}

/// Stream read-out and final norm.
inline index_t count_read_out(const config& c) {
  return c.hc_mult * (c.hc_mult * c.hidden_size + 1) + 1 + c.hidden_size;
}

}  // namespace detail

inline parameter_count count_parameters(const config& c) {
  parameter_count r;
  r.embedding = c.vocab_size * c.hidden_size;
  const index_t head = detail::count_read_out(c) + c.vocab_size * c.hidden_size;
  r.total = r.embedding + head;
  r.active = head;
  for (index_t l = 0; l < c.num_hidden_layers; ++l) {
    const block_parameters b = detail::count_block(c, c.ratio(l), c.is_hash_layer(l));
    r.total += b.fixed + c.n_routed_experts * b.per_expert;
    r.active += b.fixed + c.num_experts_per_tok * b.per_expert;
  }
  // An MTP block: e_proj, h_proj, their two norms, a block, its own read-out.
  for (index_t m = 0; m < c.num_nextn_predict_layers; ++m) {
    const block_parameters b = detail::count_block(c, c.mtp_ratio(m), false);
    r.mtp += 2 * c.hidden_size * (c.hidden_size + 1) + b.fixed + c.n_routed_experts * b.per_expert +
             detail::count_read_out(c);
  }
  return r;
}

/// Bytes of the KV cache in the formats of section 2.3.4, MTP not included: FP8 with one e8m0 scale
/// per 64 channels for the channels without position, BF16 for the rotated ones, FP4 for the
/// indexer's keys.  (This library keeps its caches in the policy's activation type.)
struct kv_bytes {
  double per_token = 0;  ///< compressed entries of all layers, per token of context
  index_t windows = 0;   ///< sliding windows of all layers, whatever the context
  double at(index_t context) const {
    return per_token * static_cast<double>(context) + static_cast<double>(windows);
  }
};

/// One key = value row: FP8 codes, BF16 rotary channels, and the scales, padded to 8 bytes.
constexpr index_t kv_row_bytes(const config& c) {
  constexpr index_t scale_block = 64, scale_padding = 8;
  const index_t plain = c.head_dim - c.qk_rope_head_dim;
  const index_t scales = (plain + scale_block - 1) / scale_block;
  return plain + 2 * c.qk_rope_head_dim + (scales + scale_padding - 1) / scale_padding * scale_padding;
}
/// One key of the lightning indexer: two FP4 codes per byte, one e8m0 scale per 32.
constexpr index_t index_key_bytes(const config& c) { return c.index_head_dim / 2 + c.index_head_dim / 32; }

inline kv_bytes count_kv_bytes(const config& c) {
  kv_bytes r;
  for (index_t l = 0; l < c.num_hidden_layers; ++l) {
    const attention_kind kind = c.kind(l);
    r.windows += kv_row_bytes(c) * c.sliding_window;
    if (kind == attention_kind::window) continue;
    const index_t entry = kv_row_bytes(c) + (kind == attention_kind::csa ? index_key_bytes(c) : 0);
    r.per_token += static_cast<double>(entry) / static_cast<double>(c.ratio(l));
  }
  return r;
}

}  // namespace dsv4
