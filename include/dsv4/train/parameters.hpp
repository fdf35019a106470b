// SPDX-License-Identifier: MIT
#pragma once
/// What is trained: every parameter by its hub name, its place in one flat buffer, and who updates it.
/// @paper{DSV4, section 2.4: the split between Muon and AdamW}
/// axes     o output row · i input column (docs/notation.md for the others)
/// oracle   golden/transformers/seed0/grads.safetensors (names and shapes)
/// deviates where the paper is silent (docs/deviations.md, "Training"): sinks and the positional biases of the
///          compressors go to AdamW; what the paper writes as separate matrices is separate for Muon too
///
/// Weights, gradients and momenta are buffers of one layout.  `bind` gives a buffer its structure: a struct of
/// views, the same one for weights (const T) and gradients (T).  The selection bias of a gate and the table of a
/// hash layer have no gradient; they live in `routing_tables`.
#include <optional>
#include <string>
#include <vector>

#include "../core/config.hpp"
#include "../core/contract.hpp"
#include "../core/tensor.hpp"

namespace dsv4::train {

/// Who updates a parameter.
enum class update_rule {
  muon,   ///< matrices: projections, experts, routers, W of mHC
  adamw,  ///< embedding, head, norms, S and alpha of mHC, sinks, positional biases
};

struct parameter_info {
  std::string name;            ///< as in a hub checkpoint
  std::vector<index_t> shape;  ///< [n] or [o, i]
  index_t offset = 0;          ///< of its first element in the buffer
  update_rule rule = update_rule::adamw;
  /// Rows of each logically independent matrix, in order: Muon treats each by itself.
  std::vector<index_t> matrices;

  index_t size() const {
    index_t n = 1;
    for (const index_t s : shape) n *= s;
    return n;
  }
};

template <class T>
struct hyper_parameters {
  view<T, 2> fn;     // [m, n D]
  view<T, 1> base;   // [m]
  view<T, 1> scale;  // [3], of the read-out [1]
};
template <class T>
struct compressor_parameters {
  view<T, 2> wkv, wgate;  // [c d, D]
  view<T, 2> ape;         // [ratio, c d]
  view<T, 1> norm;        // [d]
};
template <class T>
struct indexer_parameters {
  view<T, 2> wq_b;          // [ih id, qr]
  view<T, 2> weights_proj;  // [ih, D]
  compressor_parameters<T> compressor;
};
template <class T>
struct attention_parameters {
  view<T, 2> wq_a;                                     // [qr, D]
  view<T, 1> q_norm;                                   // [qr]
  view<T, 2> wq_b;                                     // [H hd, qr]
  view<T, 2> wkv;                                      // [hd, D]
  view<T, 1> kv_norm;                                  // [hd]
  view<T, 1> attn_sink;                                // [H]
  view<T, 2> wo_a;                                     // [g r, H hd / g]
  view<T, 2> wo_b;                                     // [D, g r]
  std::optional<compressor_parameters<T>> compressor;  // ratio > 0
  std::optional<indexer_parameters<T>> indexer;        // ratio 4
};
template <class T>
struct expert_parameters {
  view<T, 2> w1, w3;  // [I, D]
  view<T, 2> w2;      // [D, I]
};
template <class T>
struct moe_parameters {
  view<T, 2> gate;                            // [E, D]
  std::vector<expert_parameters<T>> experts;  // [E]
  expert_parameters<T> shared;
};
template <class T>
struct block_parameters {
  hyper_parameters<T> hc_attn, hc_ffn;
  view<T, 1> attn_norm, ffn_norm;  // [D]
  attention_parameters<T> attn;
  moe_parameters<T> ffn;
};
template <class T>
struct mtp_parameters {
  view<T, 1> enorm, hnorm;    // [D]
  view<T, 2> e_proj, h_proj;  // [D, D]
  block_parameters<T> block;
  hyper_parameters<T> hc_head;
  view<T, 1> norm;  // [D]
};
template <class T>
struct model_parameters {
  view<T, 2> embed;  // [vocab, D]
  std::vector<block_parameters<T>> layers;
  hyper_parameters<T> hc_head;
  view<T, 1> norm;  // [D]
  view<T, 2> head;  // [vocab, D]
  std::vector<mtp_parameters<T>> mtp;
};

namespace detail {

/// One walk over the model: hands out views of `base` one after another and, on request, lists what they are.
template <class T>
class binder {
 public:
  binder(const config& c, T* base, std::vector<parameter_info>* list) : c_(c), base_(base), list_(list) {}

  model_parameters<T> run() {
    const index_t d = c_.hidden_size;
    model_parameters<T> p;
    p.embed = matrix("embed.weight", c_.vocab_size, d, update_rule::adamw);
    for (index_t l = 0; l < c_.num_hidden_layers; ++l)
      p.layers.push_back(block("layers." + std::to_string(l) + ".", c_.ratio(l)));
    p.hc_head = streams("hc_head", {c_.hc_mult});
    p.norm = vector("norm.weight", d);
    p.head = matrix("head.weight", c_.vocab_size, d, update_rule::adamw);
    for (index_t b = 0; b < c_.num_nextn_predict_layers; ++b)
      p.mtp.push_back(mtp("mtp." + std::to_string(b) + ".", b));
    return p;
  }
  /// Elements handed out.
  index_t size() const { return at_; }

 private:
  mtp_parameters<T> mtp(const std::string& n, index_t b) {
    const index_t d = c_.hidden_size;
    mtp_parameters<T> p;
    p.enorm = vector(n + "enorm.weight", d);
    p.hnorm = vector(n + "hnorm.weight", d);
    p.e_proj = matrix(n + "e_proj.weight", d, d);
    p.h_proj = matrix(n + "h_proj.weight", d, d);
    p.block = block(n, c_.mtp_ratio(b));
    p.hc_head = streams(n + "hc_head", {c_.hc_mult});
    p.norm = vector(n + "norm.weight", d);
    return p;
  }

  block_parameters<T> block(const std::string& n, index_t ratio) {
    const index_t s = c_.hc_mult;
    block_parameters<T> p;
    p.hc_attn = streams(n + "hc_attn", {s, s, s * s});
    p.attn_norm = vector(n + "attn_norm.weight", c_.hidden_size);
    p.attn = attention(n + "attn.", ratio);
    p.hc_ffn = streams(n + "hc_ffn", {s, s, s * s});
    p.ffn_norm = vector(n + "ffn_norm.weight", c_.hidden_size);
    p.ffn = moe(n + "ffn.");
    return p;
  }

  attention_parameters<T> attention(const std::string& n, index_t ratio) {
    const index_t d = c_.hidden_size, heads = c_.num_attention_heads * c_.head_dim;
    attention_parameters<T> p;
    p.wq_a = matrix(n + "wq_a.weight", c_.q_lora_rank, d);
    p.q_norm = vector(n + "q_norm.weight", c_.q_lora_rank);
    p.wq_b = matrix(n + "wq_b.weight", heads, c_.q_lora_rank);
    p.wkv = matrix(n + "wkv.weight", c_.head_dim, d);
    p.kv_norm = vector(n + "kv_norm.weight", c_.head_dim);
    p.attn_sink = vector(n + "attn_sink", c_.num_attention_heads);
    // Each group of heads has a projection of its own.
    p.wo_a = matrix(n + "wo_a.weight", c_.o_groups * c_.o_lora_rank, heads / c_.o_groups, update_rule::muon,
                    std::vector<index_t>(std::size_t(c_.o_groups), c_.o_lora_rank));
    p.wo_b = matrix(n + "wo_b.weight", d, c_.o_groups * c_.o_lora_rank);
    const attention_kind kind = kind_of_ratio(ratio);
    if (kind != attention_kind::window) p.compressor = compressor(n + "compressor.", ratio, c_.head_dim);
    if (kind == attention_kind::csa) {
      indexer_parameters<T> i;
      i.wq_b = matrix(n + "indexer.wq_b.weight", c_.index_n_heads * c_.index_head_dim, c_.q_lora_rank);
      i.weights_proj = matrix(n + "indexer.weights_proj.weight", c_.index_n_heads, d);
      i.compressor = compressor(n + "indexer.compressor.", ratio, c_.index_head_dim);
      p.indexer = i;
    }
    return p;
  }

  compressor_parameters<T> compressor(const std::string& n, index_t ratio, index_t width) {
    // CSA: the halves b (for the next block) and a (its own) are matrices of their own in the report.
    const std::vector<index_t> halves(kind_of_ratio(ratio) == attention_kind::csa ? 2 : 1, width);
    const index_t rows = static_cast<index_t>(halves.size()) * width;
    compressor_parameters<T> p;
    p.wkv = matrix(n + "wkv.weight", rows, c_.hidden_size, update_rule::muon, halves);
    p.wgate = matrix(n + "wgate.weight", rows, c_.hidden_size, update_rule::muon, halves);
    p.ape = matrix(n + "ape", ratio, rows, update_rule::adamw);
    p.norm = vector(n + "norm.weight", width);
    return p;
  }

  moe_parameters<T> moe(const std::string& n) {
    moe_parameters<T> p;
    p.gate = matrix(n + "gate.weight", c_.n_routed_experts, c_.hidden_size);
    for (index_t e = 0; e < c_.n_routed_experts; ++e)
      p.experts.push_back(expert(n + "experts." + std::to_string(e) + "."));
    p.shared = expert(n + "shared_experts.");
    return p;
  }
  expert_parameters<T> expert(const std::string& n) {
    const index_t d = c_.hidden_size, inner = c_.moe_intermediate_size;
    expert_parameters<T> p;
    p.w1 = matrix(n + "w1.weight", inner, d);
    p.w2 = matrix(n + "w2.weight", d, inner);
    p.w3 = matrix(n + "w3.weight", inner, d);
    return p;
  }

  /// `parts`: rows of W_pre, W_post and W_res; of W_pre alone in a read-out.
  hyper_parameters<T> streams(const std::string& n, const std::vector<index_t>& parts) {
    index_t rows = 0;
    for (const index_t r : parts) rows += r;
    hyper_parameters<T> p;
    p.fn = matrix(n + "_fn", rows, c_.hc_mult * c_.hidden_size, update_rule::muon, parts);
    p.base = vector(n + "_base", rows);
    p.scale = vector(n + "_scale", static_cast<index_t>(parts.size()));
    return p;
  }

  view<T, 1> vector(std::string name, index_t n) {
    T* data = place({std::move(name), {n}, 0, update_rule::adamw, {}});
    return {data, n};
  }
  view<T, 2> matrix(std::string name, index_t rows, index_t cols, update_rule rule = update_rule::muon,
                    std::vector<index_t> matrices = {}) {
    if (matrices.empty()) matrices = {rows};
    T* data = place({std::move(name), {rows, cols}, 0, rule, std::move(matrices)});
    return {data, rows, cols};
  }
  T* place(parameter_info info) {
    // Every parameter begins on a cache line.
    constexpr index_t line = static_cast<index_t>(alignment / sizeof(T));
    info.offset = at_;
    at_ += (info.size() + line - 1) / line * line;
    T* data = base_ ? base_ + info.offset : nullptr;
    if (list_) list_->push_back(std::move(info));
    return data;
  }

  const config& c_;
  T* base_;
  std::vector<parameter_info>* list_;
  index_t at_ = 0;
};

}  // namespace detail

/// Names, shapes, places and rules of all parameters of a configuration.
struct parameter_layout {
  std::vector<parameter_info> all;
  index_t size = 0;  ///< elements of a buffer, padding included

  template <class T = float>
  static parameter_layout of(const config& c) {
    parameter_layout l;
    detail::binder<T> b(c, nullptr, &l.all);
    b.run();
    l.size = b.size();
    return l;
  }
  const parameter_info* find(std::string_view name) const {
    for (const parameter_info& p : all)
      if (p.name == name) return &p;
    return nullptr;
  }
};

/// The structure of a buffer made for parameter_layout::of<T>(c).  T: const for weights.
template <class T>
model_parameters<T> bind(const config& c, T* buffer) {
  return detail::binder<T>(c, buffer, nullptr).run();
}

/// What decides routing and has no gradient: one entry per layer, then one per MTP block.
struct routing_tables {
  std::vector<tensor<float, 1>> bias;          // [E]         learned layers; empty in hash layers
  std::vector<tensor<std::int32_t, 2>> table;  // [vocab, k]  hash layers; empty in learned ones
};

}  // namespace dsv4::train
