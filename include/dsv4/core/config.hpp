// SPDX-License-Identifier: MIT
#pragma once
/// The numbers that make a model: every field of config.json that changes the mathematics.
/// @paper{DSV4, Table 1 and section 4.2.1}
/// axes     none
/// oracle   the published config.json and inference/config.json of Flash, Pro and their -Base siblings
/// deviates none
#include <string>
#include <vector>

#include "contract.hpp"

namespace dsv4 {

/// What a layer's attention sees beyond the window, decided by its compression ratio.
enum class attention_kind {
  window,  ///< ratio 0: the last sliding_window tokens only
  csa,     ///< ratio 4: compressed entries chosen by the lightning indexer
  hca,     ///< any other ratio: every visible compressed entry
};
/// The CSA ratio m; its compressor overlaps blocks and it alone has an indexer.
inline constexpr index_t csa_ratio = 4;

constexpr attention_kind kind_of_ratio(index_t ratio) {
  return ratio == 0 ? attention_kind::window : ratio == csa_ratio ? attention_kind::csa : attention_kind::hca;
}

/// YaRN: how the rotary frequencies of compressed layers are stretched.
struct yarn_config {
  double factor = 16, beta_fast = 32, beta_slow = 1;
  index_t original_max_position_embeddings = 65536;
};

/// A DSpark drafter, which checkpoints carry under mtp.* in place of multi-token prediction since V4-Flash-DSpark
/// (model/dspark.hpp).  Field names of config.json: dspark_block_size, dspark_noise_token_id, dspark_markov_rank,
/// dspark_target_layer_ids.
struct dspark_config {
  index_t stages = 0;       // blocks of the drafter, mtp.0 ...; 0: there is none
  index_t block_size = 0;   // [K] slots that are drafted at once
  index_t noise_token = 0;  // what the slots after the first hold
  index_t markov_rank = 0;  // [r]
  /// Layers of the model whose streams, averaged, are the drafter's context.
  std::vector<index_t> target_layers;

  bool present() const { return stages > 0; }
};

/// Field names are those of the hub's config.json; letters in brackets are those of docs/notation.md.
struct config {
  index_t vocab_size = 0;
  index_t hidden_size = 0;            // [D]
  index_t moe_intermediate_size = 0;  // [I]
  index_t num_hidden_layers = 0;      // [L]
  index_t num_hash_layers = 0;        // layers below this take their experts from a table
  index_t num_attention_heads = 0;    // [H]
  index_t head_dim = 0;               // [hd] one key = value head of this width
  index_t qk_rope_head_dim = 0;       // [rd] the LAST rd channels carry the position
  index_t q_lora_rank = 0;            // [qr]
  index_t o_groups = 0;               // [g]
  index_t o_lora_rank = 0;            // [r]
  index_t n_routed_experts = 0;       // [E]
  index_t n_shared_experts = 1;
  index_t num_experts_per_tok = 0;  // [k]
  double routed_scaling_factor = 1;
  double swiglu_limit = 0;
  double rms_norm_eps = 1e-6;
  index_t hc_mult = 4;  // [n] residual streams
  index_t hc_sinkhorn_iters = 20;
  double hc_eps = 1e-6;
  index_t index_n_heads = 0;   // [ih] lightning indexer
  index_t index_head_dim = 0;  // [id]
  index_t index_topk = 0;
  index_t sliding_window = 0;  // [W]
  index_t max_position_embeddings = 0;
  double rope_theta = 10000;            // layers of ratio 0 and MTP, no YaRN
  double compress_rope_theta = 160000;  // layers with compression, with YaRN
  bool has_yarn = true;
  yarn_config yarn;
  index_t num_nextn_predict_layers = 0;
  /// One per layer, then one per MTP block.
  std::vector<index_t> compress_ratios;
  dspark_config dspark;  // in place of MTP: then num_nextn_predict_layers is 0

  index_t ratio(index_t layer) const { return compress_ratios[static_cast<std::size_t>(layer)]; }
  index_t mtp_ratio(index_t block = 0) const { return ratio(num_hidden_layers + block); }
  attention_kind kind(index_t layer) const { return kind_of_ratio(ratio(layer)); }
  bool is_hash_layer(index_t layer) const { return layer < num_hash_layers; }
  /// Rows of hc_*_fn: n to read, n to write, n*n to carry over.
  index_t hc_mixes() const { return (2 + hc_mult) * hc_mult; }
};

}  // namespace dsv4
