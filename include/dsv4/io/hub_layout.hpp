// SPDX-License-Identifier: MIT
#pragma once
/// What a published checkpoint of a configuration consists of: every tensor's name, type and shape, as data.
/// checkpoint.hpp reads such files; this is the same list for those who write them.
/// oracle: golden/checkpoint_layout (the tensor lists of Flash and Pro)
///
/// FP8 projections have one E8M0 scale per 128 x 128 tile, FP4 experts (two codes per I8) one per 32 columns.
#include <string>
#include <string_view>
#include <vector>

#include "../core/config.hpp"
#include "../core/dtype.hpp"
#include "../core/error.hpp"
#include "../num/block_scaled.hpp"

namespace dsv4::io {

struct hub_tensor {
  std::string name;
  dtype type = dtype::f32;  ///< as safetensors calls it; FP4 pairs are I8
  std::vector<index_t> shape;
  index_t columns = 0;  ///< of the matrix that this is or scales; of others the last axis

  index_t elements() const {
    index_t n = 1;
    for (const index_t s : shape) n *= s;
    return n;
  }
  index_t bytes() const { return elements() * bits_of(type) / 8; }
};

namespace detail {

class hub_lister {
 public:
  explicit hub_lister(const config& c) : c_(c) {}

  std::vector<hub_tensor> run() {
    put("embed.weight", dtype::bf16, {c_.vocab_size, c_.hidden_size});
    put("head.weight", dtype::bf16, {c_.vocab_size, c_.hidden_size});
    norm("norm", c_.hidden_size);
    streams("hc_head", c_.hc_mult, 1);
    for (index_t l = 0; l < c_.num_hidden_layers; ++l)
      block("layers." + std::to_string(l) + ".", c_.ratio(l), c_.is_hash_layer(l));
    for (index_t b = 0; b < c_.num_nextn_predict_layers; ++b) {
      const std::string p = "mtp." + std::to_string(b) + ".";
      block(p, c_.mtp_ratio(b), false);
      fp8(p + "e_proj", c_.hidden_size, c_.hidden_size);
      fp8(p + "h_proj", c_.hidden_size, c_.hidden_size);
      for (const char* name : {"enorm", "hnorm", "norm"}) norm(p + name, c_.hidden_size);
      streams(p + "hc_head", c_.hc_mult, 1);
    }
    return std::move(out_);
  }

 private:
  void block(const std::string& p, index_t ratio, bool hash) {
    constexpr index_t parts = 3;  // to read, to write, to carry over
    streams(p + "hc_attn", c_.hc_mixes(), parts);
    norm(p + "attn_norm", c_.hidden_size);
    streams(p + "hc_ffn", c_.hc_mixes(), parts);
    norm(p + "ffn_norm", c_.hidden_size);
    attention(p + "attn.", ratio);
    moe(p + "ffn.", hash);
  }

  void attention(const std::string& p, index_t ratio) {
    const index_t d = c_.hidden_size, heads = c_.num_attention_heads * c_.head_dim;
    put(p + "attn_sink", dtype::f32, {c_.num_attention_heads});
    norm(p + "q_norm", c_.q_lora_rank);
    norm(p + "kv_norm", c_.head_dim);
    fp8(p + "wq_a", c_.q_lora_rank, d);
    fp8(p + "wq_b", heads, c_.q_lora_rank);
    fp8(p + "wkv", c_.head_dim, d);
    fp8(p + "wo_a", c_.o_groups * c_.o_lora_rank, heads / c_.o_groups);
    fp8(p + "wo_b", d, c_.o_groups * c_.o_lora_rank);
    const attention_kind kind = kind_of_ratio(ratio);
    if (kind != attention_kind::window) compressor(p + "compressor.", ratio, c_.head_dim);
    if (kind != attention_kind::csa) return;
    fp8(p + "indexer.wq_b", c_.index_n_heads * c_.index_head_dim, c_.q_lora_rank);
    put(p + "indexer.weights_proj.weight", dtype::bf16, {c_.index_n_heads, d});
    compressor(p + "indexer.compressor.", ratio, c_.index_head_dim);
  }
  void compressor(const std::string& p, index_t ratio, index_t width) {
    // CSA blocks overlap: one half for the block itself, one for its successor.
    const index_t out = (kind_of_ratio(ratio) == attention_kind::csa ? 2 : 1) * width;
    put(p + "ape", dtype::f32, {ratio, out});
    put(p + "wkv.weight", dtype::bf16, {out, c_.hidden_size});
    put(p + "wgate.weight", dtype::bf16, {out, c_.hidden_size});
    norm(p + "norm", width);
  }

  void moe(const std::string& p, bool hash) {
    put(p + "gate.weight", dtype::bf16, {c_.n_routed_experts, c_.hidden_size});
    if (hash)
      put(p + "gate.tid2eid", dtype::i64, {c_.vocab_size, c_.num_experts_per_tok});
    else
      put(p + "gate.bias", dtype::f32, {c_.n_routed_experts});
    const index_t d = c_.hidden_size, inner = c_.moe_intermediate_size;
    fp8(p + "shared_experts.w1", inner, d);
    fp8(p + "shared_experts.w2", d, inner);
    fp8(p + "shared_experts.w3", inner, d);
    for (index_t e = 0; e < c_.n_routed_experts; ++e) {
      const std::string x = p + "experts." + std::to_string(e) + ".";
      fp4(x + "w1", inner, d);
      fp4(x + "w2", d, inner);
      fp4(x + "w3", inner, d);
    }
  }

  void streams(const std::string& p, index_t rows, index_t scales) {
    put(p + "_fn", dtype::f32, {rows, c_.hc_mult * c_.hidden_size});
    put(p + "_base", dtype::f32, {rows});
    put(p + "_scale", dtype::f32, {scales});
  }
  void norm(const std::string& p, index_t n) { put(p + ".weight", dtype::bf16, {n}); }
  void fp8(const std::string& p, index_t rows, index_t cols) {
    const auto tiles = [](index_t n) { return (n + fp8_tile - 1) / fp8_tile; };
    put(p + ".weight", dtype::f8_e4m3, {rows, cols});
    put(p + ".scale", dtype::f8_e8m0, {tiles(rows), tiles(cols)}, cols);
  }
  void fp4(const std::string& p, index_t rows, index_t cols) {
    put(p + ".weight", dtype::i8, {rows, cols / 2}, cols);
    put(p + ".scale", dtype::f8_e8m0, {rows, (cols + fp4_tile_cols - 1) / fp4_tile_cols}, cols);
  }
  void put(std::string name, dtype type, std::vector<index_t> shape, index_t columns = 0) {
    const index_t last = shape.back();
    out_.push_back({std::move(name), type, std::move(shape), columns ? columns : last});
  }

  const config& c_;
  std::vector<hub_tensor> out_;
};

}  // namespace detail

/// Every tensor, in the order of the layers.  @throws unsupported millions of them (Pro has 145,116): a hostile
/// configuration must not fill the memory with names
inline std::vector<hub_tensor> hub_layout(const config& c) {
  constexpr index_t most = index_t{1} << 22, each_expert = 6;  // w1, w2, w3, and their scales
  if ((c.num_hidden_layers + c.num_nextn_predict_layers) * c.n_routed_experts > most / each_expert)
    throw unsupported("a checkpoint of more than " + std::to_string(most) +
                      " tensors: " + std::to_string(c.num_hidden_layers) + " layers of " +
                      std::to_string(c.n_routed_experts) + " experts");
  return detail::hub_lister(c).run();
}

}  // namespace dsv4::io
