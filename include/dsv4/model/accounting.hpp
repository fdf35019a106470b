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
#include <algorithm>

#include "weights.hpp"

namespace dsv4 {

struct parameter_count {
  index_t total = 0;      ///< the model without MTP
  index_t active = 0;     ///< of total, without the embedding table
  index_t embedding = 0;  ///< the table [V, D]; part of total
  index_t mtp = 0;        ///< all MTP blocks
  index_t drafter = 0;    ///< a DSpark drafter, in place of those
};

inline parameter_count count_parameters(const config& c) {
  parameter_count r;
  // One routed expert stands for all of its layer.
  const auto tree = weight_tree<storage::none>(c, c.num_nextn_predict_layers,
                                               std::min<index_t>(c.n_routed_experts, 1), c.dspark.stages);
  each_weight(tree, c, [&](const weight_info& w, const auto&) {
    if (w.format == weight_format::i64) return;  // the table of a hash layer
    const bool routed = w.expert >= 0, embedding = w.start == initial_value::embedding;
    const index_t all = w.size() * (routed ? c.n_routed_experts : 1);
    if (w.name.starts_with("mtp.")) {
      (c.dspark.present() ? r.drafter : r.mtp) += all;
      return;
    }
    r.total += all;
    if (embedding)
      r.embedding += all;
    else
      r.active += w.size() * (routed ? c.num_experts_per_tok : 1);
  });
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
