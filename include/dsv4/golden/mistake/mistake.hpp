// SPDX-License-Identifier: MIT
#pragma once
/// The mistakes that ports of this model are known to make (the catalogue of docs/verification.md), by name.
/// mistaken.hpp computes an operator with one of them: the hint engine asks which one reproduces a wrong
/// tensor, the mutation test plants them in a right model.
#include <array>
#include <cstdint>
#include <string_view>

namespace dsv4::golden {

// clang-format off: one line per step of the model, not per name
enum class mistake : std::uint8_t {
  // rotation
  rope_missing, rope_half_split, rope_wrong_sign, rope_other_table, rope_plain_base_yarn, rope_no_yarn, rope_mscale,
  rope_first_channels, rope_shifted, entry_at_last_token, entry_at_block_index,
  // quantisation
  act_quant_missing, rope_channels_quantised, scale_not_power_of_two, kv_block_128, hadamard_missing, fp4_missing,
  last_tile_dropped,
  // norms and hyper connections
  head_norm_missing, head_norm_one_store, pre_without_eps, post_with_eps, post_not_doubled, sinkhorn_rows_first,
  sinkhorn_one_iteration, comb_transposed,
  // compressor and indexer
  csa_halves_swapped, ape_missing, previous_block_missing, stale_open_block, relu_missing, relu_after_weight,
  index_scale_missing, entry_too_early, entry_too_late, index_of_previous_token,
  // attention
  sink_missing, mscale_in_softmax, window_short, window_long, stale_window_slot, first_softmax_block_only, o_quantised,
  race,
  // mixture of experts
  gate_bf16, gate_quantised, gate_sigmoid, bias_missing, hash_layer_learned, hash_of_previous_token, bias_in_weights,
  weights_not_normalised, route_scale_missing, weights_uniform, weight_after_w2, clamp_missing, gate_clamped_below,
  clamp_after_silu, shared_missing,
  count
};
// clang-format on

struct mistake_info {
  std::string_view name;
  std::string_view says;  ///< for people: what the port does
};

inline constexpr std::array<mistake_info, static_cast<std::size_t>(mistake::count)> mistakes{{
    {"rope_missing", "not rotated at all (on the output: the inverse rotation is missing)"},
    {"rope_half_split", "half-split (rotate_half) rotation instead of interleaved pairs (2i, 2i+1)"},
    {"rope_wrong_sign", "rotated by the angle of the wrong sign (on the output: forward instead of inverse)"},
    {"rope_other_table",
     "the rotary table of the other layer kind (window and MTP layers: rope_theta without YaRN; compressed: "
     "compress_rope_theta with YaRN)"},
    {"rope_plain_base_yarn", "rope_theta with YaRN instead of compress_rope_theta with YaRN"},
    {"rope_no_yarn", "YaRN is missing"},
    {"rope_mscale", "YaRN's mscale multiplies cos and sin; this model has none"},
    {"rope_first_channels", "the first channels of a head are rotated instead of the last"},
    {"rope_shifted", "rotated at the next position"},
    {"entry_at_last_token",
     "compressed entries rotated at the last token of their block instead of the first"},
    {"entry_at_block_index",
     "compressed entries rotated at the index of their block instead of its first token's position"},
    {"act_quant_missing", "the FP8 quantisation of activations is missing"},
    {"rope_channels_quantised", "the rotary channels are quantised too; they stay bf16"},
    {"scale_not_power_of_two", "quantiser scales are amax/448 instead of the next power of two"},
    {"kv_block_128", "KV quantised in blocks of 128 instead of 64"},
    {"hadamard_missing", "the Hadamard rotation is missing"},
    {"fp4_missing", "the FP4 quantisation is missing"},
    {"last_tile_dropped", "the product leaves out its last 128 columns"},
    {"head_norm_missing", "the norm of each query head is missing"},
    {"head_norm_one_store", "the norm of query heads rounded once instead of at every step"},
    {"pre_without_eps", "pre = sigmoid without + hc_eps"},
    {"post_with_eps", "post = 2 sigmoid + hc_eps; it has no eps"},
    {"post_not_doubled", "post = sigmoid instead of 2 sigmoid"},
    {"sinkhorn_rows_first", "Sinkhorn begins with the other axis"},
    {"sinkhorn_one_iteration", "Sinkhorn stops after one iteration"},
    {"comb_transposed", "comb is used transposed: h'[j] needs sum over i of comb[i][j] h[i]"},
    {"csa_halves_swapped",
     "the channel halves of the overlapping compressor are swapped: [0,d) belongs to the previous block"},
    {"ape_missing", "the position bias (ape) of the compressor is missing"},
    {"previous_block_missing", "the overlapping compressor forgets the previous block"},
    {"stale_open_block", "the compressor's open block holds a token that was taken back"},
    {"relu_missing", "the indexer's relu is missing"},
    {"relu_after_weight", "the indexer's relu comes after the head weight"},
    {"index_scale_missing", "the indexer's weights miss their constant d^-1/2 heads^-1/2"},
    {"entry_too_early", "entries are visible before their block is closed: (t+2)/ratio"},
    {"entry_too_late", "entries are visible one token late: t/ratio"},
    {"index_of_previous_token", "each token uses the choice of the token before it"},
    {"sink_missing", "the attention sink is missing in the denominator"},
    {"mscale_in_softmax", "YaRN's mscale multiplies the softmax scale; this model has none"},
    {"window_short", "the window is one token short"},
    {"window_long", "the window is one token long"},
    {"stale_window_slot", "a slot of the window ring holds the key of one window ago"},
    {"first_softmax_block_only", "slots after the first 64 are left out"},
    {"o_quantised", "the attention output is quantised before the grouped projection; it is not"},
    {"race", "some rows hold garbage: a race or an unsynchronised buffer"},
    {"gate_bf16", "the gate's logits are computed in bf16 instead of float32"},
    {"gate_quantised", "the gate's input is quantised; it is not"},
    {"gate_sigmoid", "sigmoid scores (V3) instead of sqrt(softplus)"},
    {"bias_missing", "the correction bias of the gate is missing in the choice"},
    {"hash_layer_learned", "a hash layer chooses by scores instead of by tid2eid"},
    {"hash_of_previous_token", "the table row of the previous token"},
    {"bias_in_weights", "the correction bias enters the routing weights; it moves the choice only"},
    {"weights_not_normalised", "routing weights are not divided by their sum"},
    {"route_scale_missing", "routed_scaling_factor is missing"},
    {"weights_uniform", "equal routing weights; hash layers too weigh by their learned scores"},
    {"weight_after_w2",
     "the routing weight multiplies after w2 instead of before (and before its quantisation)"},
    {"clamp_missing", "the SwiGLU clamp is missing"},
    {"gate_clamped_below", "the gate branch is clamped below too; it is clamped above only"},
    {"clamp_after_silu", "the gate branch is clamped after silu instead of before: min(silu(g), limit)"},
    {"shared_missing", "the shared expert is missing"},
}};

constexpr const mistake_info& info(mistake m) { return mistakes[static_cast<std::size_t>(m)]; }

}  // namespace dsv4::golden
