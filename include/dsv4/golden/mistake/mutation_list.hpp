// SPDX-License-Identifier: MIT
#pragma once
/// The catalogue of docs/verification.md as mutations: which mistake is planted at which sites of
/// a right model.  Numbers are those of the catalogue; a bug that shows in several ways has several variants.
#include <string>
#include <vector>

#include "../bundle/site_table.hpp"
#include "mistake.hpp"

namespace dsv4::golden {

/// Layers a mistake is planted in.
enum class planted_in : std::uint8_t { all, window, compressed, csa, mtp, hash, learned, middle };

inline bool applies(planted_in where, const tap_scope& s, const config& c) {
  const bool layer = s.where == tap_scope::part::layer, mtp = s.where == tap_scope::part::mtp;
  if (!layer && !mtp) return false;
  const index_t ratio = ratio_of(s, c);
  switch (where) {
    case planted_in::window: return layer && ratio == 0;
    case planted_in::compressed: return ratio > 0;
    case planted_in::csa: return kind_of_ratio(ratio) == attention_kind::csa;
    case planted_in::mtp: return mtp;
    case planted_in::hash: return layer && c.is_hash_layer(s.number);
    case planted_in::learned: return mtp || !c.is_hash_layer(s.number);
    case planted_in::middle: return layer && s.number == c.num_hidden_layers / 2;
    default: return true;
  }
}

struct mutation {
  int bug;  ///< 1 … 19 of the catalogue
  mistake what;
  std::vector<site> at;  ///< every place where a port with this bug has it
  planted_in where = planted_in::all;
  bool decode_only = false;  ///< in calls that continue a sequence
  bool other_ids = false;    ///< 18: not a mistake of the model but of its input
};

inline std::vector<mutation> all_mutations() {
  using m = mistake;
  using enum site;
  const std::vector<site> qk{attn_q_rope, attn_kv};
  const std::vector<site> rotated{
      attn_q_rope, attn_kv, indexer_q_had, compressor_entry, indexer_compressor_entry, attn_o_derot};
  const std::vector<site> entries{indexer_compressor_entry, compressor_entry};
  return {
      {1, m::rope_plain_base_yarn, qk, planted_in::compressed},
      {1, m::rope_other_table, qk, planted_in::compressed},
      {1, m::rope_no_yarn, qk, planted_in::compressed},
      {2, m::rope_other_table, qk, planted_in::window},
      {3, m::rope_half_split, rotated},
      {3, m::rope_first_channels, rotated},
      {4, m::rope_missing, {attn_o_derot}},
      {4, m::rope_wrong_sign, {attn_o_derot}},
      {4, m::rope_shifted, {attn_o_derot}},
      {5, m::mscale_in_softmax, {attn_o}},
      {5, m::rope_mscale, qk, planted_in::compressed},
      {6, m::rope_missing, entries, planted_in::compressed},
      {6, m::entry_at_last_token, entries, planted_in::compressed},
      {6, m::entry_at_block_index, entries, planted_in::compressed},
      {7, m::csa_halves_swapped, {indexer_compressor_pooled, compressor_pooled}, planted_in::csa},
      {7, m::csa_halves_swapped, {compressor_pooled}, planted_in::csa},
      {7, m::previous_block_missing, {compressor_pooled}, planted_in::csa},
      {8, m::comb_transposed, {mid, out}},
      {8, m::sinkhorn_rows_first, {hc_attn_comb, hc_ffn_comb}},
      {8, m::post_not_doubled, {hc_attn_post, hc_ffn_post}},
      {9, m::gate_bf16, {gate_scores}},
      {9, m::gate_quantised, {gate_scores}},
      {9, m::bias_missing, {gate_indices}, planted_in::learned},
      {9, m::bias_in_weights, {gate_weights}, planted_in::learned},
      {10, m::hash_layer_learned, {gate_indices}, planted_in::hash},
      {10, m::weights_uniform, {gate_weights}, planted_in::hash},
      {11, m::weight_after_w2, {ffn_routed}},
      {12, m::clamp_missing, {ffn_routed, ffn_shared}},
      {12, m::gate_clamped_below, {ffn_routed, ffn_shared}},
      {13, m::act_quant_missing, {attn_qr}},
      {13, m::act_quant_missing, {attn_kv}},
      {13, m::rope_channels_quantised, {attn_kv}},
      {13, m::scale_not_power_of_two, {attn_kv}},
      {14, m::hadamard_missing, {indexer_q_had, indexer_compressor_entry}, planted_in::csa},
      {14, m::fp4_missing, {indexer_q, indexer_compressor_entry}, planted_in::csa},
      {14, m::relu_after_weight, {indexer_scores}, planted_in::csa},
      {14, m::index_scale_missing, {indexer_weights}, planted_in::csa},
      {14, m::index_of_previous_token, {attn_topk_idxs}, planted_in::csa},
      {15, m::rope_other_table, qk, planted_in::mtp},
      {16, m::stale_open_block, {indexer_compressor_pooled, compressor_pooled}, planted_in::compressed, true},
      {17, m::stale_window_slot, {attn_o}, planted_in::middle, true},
      {17, m::race, {attn_q_norm}, planted_in::middle},
      {18, m::count, {}, planted_in::all, false, true},
      {19, m::last_tile_dropped, {attn_qr}},
      {19, m::first_softmax_block_only, {attn_o}},
      {19, m::window_short, {attn_o}},
      {19, m::entry_too_late, {attn_topk_idxs}, planted_in::compressed},
      {19, m::sink_missing, {attn_o}},
  };
}

/// What the bug is, in the words of the catalogue.
inline constexpr std::array<std::string_view, 19> bug_names{"compressed layers with the plain theta",
                                                            "window layers with the compressed theta",
                                                            "half-split instead of interleaved rotation",
                                                            "inverse rotation of the output",
                                                            "YaRN mscale (V3 habit)",
                                                            "rotation of compressed entries",
                                                            "CSA overlap halves",
                                                            "hyper connections: eps, order, transpose",
                                                            "gate: precision, bias",
                                                            "hash layers",
                                                            "routing weight after w2",
                                                            "SwiGLU clamp",
                                                            "activation quantisation",
                                                            "indexer: Hadamard, FP4, relu, scale",
                                                            "MTP with the compressed rotation",
                                                            "rollback without the compressor's state",
                                                            "race, stale slots",
                                                            "tokenizer or template drift",
                                                            "paths that tiny dimensions do not reach"};

}  // namespace dsv4::golden
