// SPDX-License-Identifier: MIT
#pragma once
/// The names of a checkpoint's tensors: every spelling in use becomes the hub's name.
/// The spellings are data (the two tables below), not code:
///   hub             layers.3.attn.wq_a.weight, .scale
///   transformers    model.layers.3.self_attn.q_a_proj.weight, .weight_scale_inv (others: .weight_scale); stacked experts
///   official, mixed layers.3.self_attn.wq_a.weight, mlp.gate.e_score_correction_bias
/// docs/checkpoint-format.md lists the spellings.  oracle: the official weight conversion
///
/// Stacked experts have no hub name; they become `ffn.experts.gate_up.{weight, scale}` [E, 2I, D] (rows
/// of w1, then of w3) and `ffn.experts.down.{weight, scale}` [E, D, I].
#include <string>
#include <string_view>

namespace dsv4::io {

/// `from` is replaced by `to` where a name (without its block) begins with it and the next character is
/// a '.' or the end; '#' stands for one number and is carried over.
struct name_rule {
  std::string_view from, to;
};

/// Outside of layers.N and mtp.N.
inline constexpr name_rule model_names[] = {
    {"embed_tokens", "embed"},
    {"lm_head", "head"},
    {"hc_head.hc_fn", "hc_head_fn"},
    {"hc_head.hc_base", "hc_head_base"},
    {"hc_head.hc_scale", "hc_head_scale"},
};

/// Inside a block, after `self_attn` has become `attn` and `mlp` has become `ffn`.
inline constexpr name_rule block_names[] = {
    // norms and mHC
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"attn_hc.fn", "hc_attn_fn"},
    {"attn_hc.base", "hc_attn_base"},
    {"attn_hc.scale", "hc_attn_scale"},
    {"ffn_hc.fn", "hc_ffn_fn"},
    {"ffn_hc.base", "hc_ffn_base"},
    {"ffn_hc.scale", "hc_ffn_scale"},
    // attention
    {"attn.q_a_proj", "attn.wq_a"},
    {"attn.q_a_norm", "attn.q_norm"},
    {"attn.q_b_proj", "attn.wq_b"},
    {"attn.kv_proj", "attn.wkv"},
    {"attn.o_a_proj", "attn.wo_a"},
    {"attn.o_b_proj", "attn.wo_b"},
    {"attn.sinks", "attn.attn_sink"},
    // compressor
    {"attn.compressor.position_bias", "attn.compressor.ape"},
    {"attn.compressor.kv_proj", "attn.compressor.wkv"},
    {"attn.compressor.gate_proj", "attn.compressor.wgate"},
    {"attn.compressor.kv_norm", "attn.compressor.norm"},
    // lightning indexer: in transformers it lives inside the compressor and owns its compressor's parts
    {"attn.compressor.indexer.q_b_proj", "attn.indexer.wq_b"},
    {"attn.compressor.indexer.scorer.weights_proj", "attn.indexer.weights_proj"},
    {"attn.compressor.indexer.weights_proj", "attn.indexer.weights_proj"},
    {"attn.compressor.indexer.position_bias", "attn.indexer.compressor.ape"},
    {"attn.compressor.indexer.kv_proj", "attn.indexer.compressor.wkv"},
    {"attn.compressor.indexer.gate_proj", "attn.indexer.compressor.wgate"},
    {"attn.compressor.indexer.kv_norm", "attn.indexer.compressor.norm"},
    // mixture of experts
    {"ffn.gate.e_score_correction_bias", "ffn.gate.bias"},
    {"ffn.experts.#.gate_proj", "ffn.experts.#.w1"},
    {"ffn.experts.#.up_proj", "ffn.experts.#.w3"},
    {"ffn.experts.#.down_proj", "ffn.experts.#.w2"},
    {"ffn.shared_experts.gate_proj", "ffn.shared_experts.w1"},
    {"ffn.shared_experts.up_proj", "ffn.shared_experts.w3"},
    {"ffn.shared_experts.down_proj", "ffn.shared_experts.w2"},
    {"ffn.experts.gate_up_proj_scale_inv", "ffn.experts.gate_up.scale"},
    {"ffn.experts.down_proj_scale_inv", "ffn.experts.down.scale"},
    {"ffn.experts.gate_up_proj", "ffn.experts.gate_up.weight"},
    {"ffn.experts.down_proj", "ffn.experts.down.weight"},
};

/// The first part of a name inside a block.
inline constexpr name_rule part_names[] = {{"self_attn", "attn"}, {"mlp", "ffn"}};

/// Endings; what they replace is the whole ending.
inline constexpr name_rule ending_names[] = {
    {".weight_scale_inv", ".scale"}, {".weight_scale", ".scale"}, {".scale_inv", ".scale"}};

namespace detail {

constexpr bool is_digit(char c) { return '0' <= c && c <= '9'; }
inline std::size_t digits_at(std::string_view s, std::size_t at) {
  std::size_t n = 0;
  while (at + n < s.size() && is_digit(s[at + n])) ++n;
  return n;
}

/// Apply one rule to the beginning of `name`; false when it does not fit.
inline bool apply(const name_rule& rule, std::string& name) {
  std::size_t at = 0;
  std::string_view number;
  for (char c : rule.from) {
    if (c == '#') {
      const std::size_t n = digits_at(name, at);
      if (n == 0) return false;
      number = std::string_view(name).substr(at, n);
      at += n;
    } else if (at < name.size() && name[at] == c) {
      ++at;
    } else {
      return false;
    }
  }
  if (at < name.size() && name[at] != '.') return false;
  std::string out;
  for (char c : rule.to) c == '#' ? out += number : out += c;
  name = out + name.substr(at);
  return true;
}

template <std::size_t N>
bool apply_first(const name_rule (&rules)[N], std::string& name) {
  for (const name_rule& r : rules)
    if (apply(r, name)) return true;
  return false;
}

}  // namespace detail

/// Length of the block prefix ("layers.12.", "mtp.0.") of a name; 0 without one.
inline std::size_t block_prefix(std::string_view name) {
  for (std::string_view kind : {std::string_view("layers."), std::string_view("mtp.")}) {
    if (!name.starts_with(kind)) continue;
    const std::size_t digits = detail::digits_at(name, kind.size()), end = kind.size() + digits;
    if (digits && end < name.size() && name[end] == '.') return end + 1;
  }
  return 0;
}

/// The hub's name of a tensor in any of the spellings.
inline std::string hub_name(std::string_view stored) {
  constexpr std::string_view model = "model.";
  if (stored.starts_with(model)) stored.remove_prefix(model.size());
  const std::size_t block = block_prefix(stored);
  std::string name(stored.substr(block));
  if (block) {
    detail::apply_first(part_names, name);
    detail::apply_first(block_names, name);
  } else {
    detail::apply_first(model_names, name);
  }
  for (const name_rule& ending : ending_names)
    if (name.ends_with(ending.from))
      name.replace(name.size() - ending.from.size(), ending.from.size(), ending.to);
  return std::string(stored.substr(0, block)) + name;
}

}  // namespace dsv4::io
