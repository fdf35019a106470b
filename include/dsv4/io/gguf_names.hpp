// SPDX-License-Identifier: MIT
#pragma once
/// What a GGUF of the architecture deepseek4 calls the tensors of a checkpoint (gguf_deepseek4.hpp, gguf_export.hpp).
/// oracle: the constants of llama.cpp's gguf-py
#include <charconv>
#include <string>
#include <string_view>

#include "../core/view.hpp"
#include "tensor_names.hpp"

namespace dsv4::io {

namespace detail {

/// Names inside a block, then those outside; `#` stands for an expert's number, which GGUF has not.
inline constexpr name_rule gguf_block_names[] = {
    {"attn_norm.weight", "attn_norm.weight"},
    {"ffn_norm.weight", "ffn_norm.weight"},
    {"hc_attn_fn", "hc_attn_fn.weight"},
    {"hc_attn_base", "hc_attn_base.weight"},
    {"hc_attn_scale", "hc_attn_scale.weight"},
    {"hc_ffn_fn", "hc_ffn_fn.weight"},
    {"hc_ffn_base", "hc_ffn_base.weight"},
    {"hc_ffn_scale", "hc_ffn_scale.weight"},
    {"attn.attn_sink", "attn_sinks.weight"},
    {"attn.wq_a.weight", "attn_q_a.weight"},
    {"attn.q_norm.weight", "attn_q_a_norm.weight"},
    {"attn.wq_b.weight", "attn_q_b.weight"},
    {"attn.wkv.weight", "attn_kv.weight"},
    {"attn.kv_norm.weight", "attn_kv_a_norm.weight"},
    {"attn.wo_a.weight", "attn_output_a.weight"},
    {"attn.wo_b.weight", "attn_output_b.weight"},
    {"attn.compressor.ape", "attn_compressor_ape.weight"},
    {"attn.compressor.wkv.weight", "attn_compressor_kv.weight"},
    {"attn.compressor.wgate.weight", "attn_compressor_gate.weight"},
    {"attn.compressor.norm.weight", "attn_compressor_norm.weight"},
    {"attn.indexer.wq_b.weight", "indexer.attn_q_b.weight"},
    {"attn.indexer.weights_proj.weight", "indexer.proj.weight"},
    {"attn.indexer.compressor.ape", "indexer_compressor_ape.weight"},
    {"attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight"},
    {"attn.indexer.compressor.wgate.weight", "indexer_compressor_gate.weight"},
    {"attn.indexer.compressor.norm.weight", "indexer_compressor_norm.weight"},
    {"ffn.gate.weight", "ffn_gate_inp.weight"},
    {"ffn.gate.bias", "exp_probs_b.bias"},
    {"ffn.gate.tid2eid", "ffn_gate_tid2eid.weight"},
    {"ffn.experts.#.w1.weight", "ffn_gate_exps.weight"},
    {"ffn.experts.#.w3.weight", "ffn_up_exps.weight"},
    {"ffn.experts.#.w2.weight", "ffn_down_exps.weight"},
    {"ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight"},
    {"ffn.shared_experts.w3.weight", "ffn_up_shexp.weight"},
    {"ffn.shared_experts.w2.weight", "ffn_down_shexp.weight"},
};
inline constexpr name_rule gguf_model_names[] = {
    {"embed.weight", "token_embd.weight"},     {"norm.weight", "output_norm.weight"},
    {"head.weight", "output.weight"},          {"hc_head_fn", "output_hc_fn.weight"},
    {"hc_head_base", "output_hc_base.weight"}, {"hc_head_scale", "output_hc_scale.weight"},
};

inline constexpr std::string_view gguf_architecture = "deepseek4", fp8_scale_key = "dsv4.fp8_scale.";
inline constexpr std::uint32_t sqrtsoftplus = 4;  // of gguf-py's ExpertGatingFuncType

/// The number of the expert in a hub name; 0 for what is no expert's.
inline index_t expert_of(std::string_view hub) {
  constexpr std::string_view folder = ".experts.";
  const std::size_t at = hub.find(folder);
  index_t n = 0;
  if (at != hub.npos) std::from_chars(hub.data() + at + folder.size(), hub.data() + hub.size(), n);
  return n;
}
inline bool is_experts(std::string_view hub) { return hub.find(".experts.") != hub.npos; }

}  // namespace detail

/// The GGUF name of a hub tensor; experts are stacked there: those of a layer share a name.  Empty: has none.
inline std::string gguf_name(std::string_view hub) {
  constexpr std::string_view layers = "layers.";
  const std::size_t block = hub.starts_with(layers) ? block_prefix(hub) : 0;
  std::string name(hub.substr(block));
  if (!(block ? detail::apply_first(detail::gguf_block_names, name)
              : detail::apply_first(detail::gguf_model_names, name)))
    return {};
  if (!block) return name;
  return "blk." + std::string(hub.substr(layers.size(), block - layers.size())) + name;
}

}  // namespace dsv4::io
