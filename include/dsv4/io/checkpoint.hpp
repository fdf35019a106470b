// SPDX-License-Identifier: MIT
#pragma once
/// A checkpoint as `model_weights`: files are mapped, matrices stay where they are in their stored type.
/// The format: docs/checkpoint-format.md.  oracle: golden/checkpoint_layout, the tensor lists of Flash and Pro
///
/// tensor_table.hpp says which files, tensor_names.hpp which spellings, weight_reader.hpp which types.
/// A checkpoint without mtp.* loads without MTP; the copies of embed and head that -Base keeps under
/// mtp.* are not read; other tensors that are no part of the model are listed by `unused()`.
/// @throws format_error with file, tensor, expected and found
/// @throws unsupported  another architecture, or a DSpark drafter (the -0731 checkpoints) under mtp.*
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config_json.hpp"
#include "weight_reader.hpp"

namespace dsv4::io {

/// Whether all weights are read once at open to find NaN and infinity (vectors always are).
enum class scan_rule {
  automatic,  ///< when the checkpoint holds at most 2 GiB
  always,
  never,
};
inline constexpr std::size_t automatic_scan_limit = std::size_t{1} << 31;

struct checkpoint_options {
  scan_rule scan = scan_rule::automatic;
  std::size_t max_decompressed = default_max_decompressed;  ///< per .safetensors.zst file
};

namespace detail {

/// Every field of model_weights, by the hub's name and with the shape that the configuration gives it.
class weight_binder {
 public:
  weight_binder(const config& c, tensor_table& files, realigned_matrices& copies)
      : c_(c), files_(files), read_(files, copies) {}

  model_weights run() {
    refuse_drafters();
    const config& c = c_;
    out_.embed = read_.matrix("embed", c.vocab_size, c.hidden_size);
    out_.head = read_.matrix("head", c.vocab_size, c.hidden_size);
    out_.norm = read_.vector("norm.weight", c.hidden_size);
    out_.hc_head = hyper_head("");
    for (index_t i = 0; i < c.num_hidden_layers; ++i)
      out_.layers.push_back(block("layers." + std::to_string(i) + ".", c.ratio(i), c.is_hash_layer(i)));
    bind_mtp();
    return std::move(out_);
  }

 private:
  void bind_mtp() {
    // -Base ships copies of embed and head here; they are the model's own and are not read.
    for (index_t b = 0; b < c_.num_nextn_predict_layers; ++b)
      for (const char* copy : {"emb.tok_emb.weight", "head.weight"}) files_.take(mtp_prefix(b) + copy);
    bool any = false;
    for (const stored_tensor& t : files_.tensors()) any = any || (!t.used && t.name.starts_with("mtp."));
    if (!any) return;
    for (index_t b = 0; b < c_.num_nextn_predict_layers; ++b) out_.mtp.push_back(mtp(b));
  }
  static std::string mtp_prefix(index_t b) { return "mtp." + std::to_string(b) + "."; }

  /// Checkpoints of the -0731 kind keep another network, a DSpark drafter, under the same prefix.
  void refuse_drafters() const {
    const auto refuse = [&](const std::string& why) {
      fail_unsupported(files_.path(), "the tensors under mtp.* are a DSpark drafter (" + why +
                                          "), not a multi-token-prediction module");
    };
    for (const stored_tensor& t : files_.tensors()) {
      if (!t.name.starts_with("mtp.")) continue;
      for (const char* part : {"main_proj", "markov_head"})
        if (t.name.find(part) != std::string_view::npos) refuse("found " + in_quotes(t.stored->name));
    }
    for (index_t b = 0; b < c_.num_nextn_predict_layers; ++b) {
      const std::string p = mtp_prefix(b);
      if (files_.has_prefix(p + "attn") && !files_.has(p + "enorm.weight") && !files_.has(p + "hnorm.weight"))
        refuse("neither " + in_quotes(p + "enorm.weight") + " nor " + in_quotes(p + "hnorm.weight") +
               " is there");
    }
  }

  mtp_weights mtp(index_t b) {
    const std::string p = mtp_prefix(b);
    const index_t d = c_.hidden_size;
    mtp_weights w;
    w.enorm = read_.vector(p + "enorm.weight", d);
    w.hnorm = read_.vector(p + "hnorm.weight", d);
    w.e_proj = read_.matrix(p + "e_proj", d, d);
    w.h_proj = read_.matrix(p + "h_proj", d, d);
    w.block = block(p, c_.mtp_ratio(b), false);
    w.hc_head = hyper_head(p);
    w.norm = read_.vector(p + "norm.weight", d);
    return w;
  }

  block_weights block(const std::string& p, index_t ratio, bool hash) {
    block_weights w;
    w.hc_attn = hyper_connection(p + "hc_attn");
    w.hc_ffn = hyper_connection(p + "hc_ffn");
    w.attn_norm = read_.vector(p + "attn_norm.weight", c_.hidden_size);
    w.ffn_norm = read_.vector(p + "ffn_norm.weight", c_.hidden_size);
    w.attn = attention(p + "attn.", ratio);
    w.ffn = moe(p + "ffn.", hash);
    return w;
  }

  hyper_connection_weights hyper_connection(const std::string& p) {
    const index_t mixes = c_.hc_mixes(), parts = 3;  // parts: pre, post, comb
    hyper_connection_weights w;
    w.fn = read_.matrix_of(p + "_fn", p + "_fn.scale", mixes, c_.hc_mult * c_.hidden_size);
    w.base = read_.vector(p + "_base", mixes);
    w.scale = read_.vector(p + "_scale", parts);
    return w;
  }
  hyper_head_weights hyper_head(const std::string& p) {
    const index_t n = c_.hc_mult;
    hyper_head_weights w;
    w.fn = read_.matrix_of(p + "hc_head_fn", p + "hc_head_fn.scale", n, n * c_.hidden_size);
    w.base = read_.vector(p + "hc_head_base", n);
    w.scale = read_.vector(p + "hc_head_scale", 1);
    return w;
  }

  attention_weights attention(const std::string& p, index_t ratio) {
    const config& c = c_;
    const index_t d = c.hidden_size, heads = c.num_attention_heads * c.head_dim;
    attention_weights w;
    w.wq_a = read_.matrix(p + "wq_a", c.q_lora_rank, d);
    w.q_norm = read_.vector(p + "q_norm.weight", c.q_lora_rank);
    w.wq_b = read_.matrix(p + "wq_b", heads, c.q_lora_rank);
    w.wkv = read_.matrix(p + "wkv", c.head_dim, d);
    w.kv_norm = read_.vector(p + "kv_norm.weight", c.head_dim);
    w.attn_sink = read_.vector(p + "attn_sink", c.num_attention_heads);
    w.wo_a = read_.matrix(p + "wo_a", c.o_groups * c.o_lora_rank, heads / c.o_groups);
    w.wo_b = read_.matrix(p + "wo_b", d, c.o_groups * c.o_lora_rank);
    const attention_kind kind = kind_of_ratio(ratio);
    if (kind != attention_kind::window) w.compressor = compressor(p + "compressor.", ratio, c.head_dim);
    if (kind == attention_kind::csa) {
      indexer_weights& x = w.indexer.emplace();
      x.wq_b = read_.matrix(p + "indexer.wq_b", c.index_n_heads * c.index_head_dim, c.q_lora_rank);
      x.weights_proj = read_.matrix(p + "indexer.weights_proj", c.index_n_heads, d);
      x.compressor = compressor(p + "indexer.compressor.", ratio, c.index_head_dim);
    }
    return w;
  }

  compressor_weights compressor(const std::string& p, index_t ratio, index_t width) {
    // CSA blocks overlap: one half for the block itself, one for its successor.
    const index_t out = (kind_of_ratio(ratio) == attention_kind::csa ? 2 : 1) * width;
    compressor_weights w;
    w.wkv = read_.matrix(p + "wkv", out, c_.hidden_size);
    w.wgate = read_.matrix(p + "wgate", out, c_.hidden_size);
    w.ape = read_.floats<2>(p + "ape", ratio, out);
    w.norm = read_.vector(p + "norm.weight", width);
    return w;
  }

  moe_weights moe(const std::string& p, bool hash) {
    const config& c = c_;
    const index_t d = c.hidden_size, inner = c.moe_intermediate_size, experts = c.n_routed_experts;
    moe_weights w;
    w.gate.weight = read_.matrix(p + "gate", experts, d);
    if (hash) {
      w.gate.tid2eid = read_.ids(p + "gate.tid2eid", c.vocab_size, c.num_experts_per_tok, experts);
    } else {
      w.gate.bias = read_.vector(p + "gate.bias", experts);
    }
    w.shared = expert(p + "shared_experts.");
    const bool is_stacked = files_.has(p + "experts.gate_up.weight") || files_.has(p + "experts.down.weight");
    for (index_t e = 0; e < experts; ++e) {
      if (!is_stacked) {
        w.experts.push_back(expert(p + "experts." + std::to_string(e) + "."));
        continue;
      }
      expert_weights x;
      x.w1 = read_.matrix(p + "experts.gate_up", inner, d, {experts, e, 2, 0});
      x.w3 = read_.matrix(p + "experts.gate_up", inner, d, {experts, e, 2, 1});
      x.w2 = read_.matrix(p + "experts.down", d, inner, {experts, e, 1, 0});
      w.experts.push_back(x);
    }
    return w;
  }
  expert_weights expert(const std::string& p) {
    const index_t d = c_.hidden_size, inner = c_.moe_intermediate_size;
    expert_weights w;
    w.w1 = read_.matrix(p + "w1", inner, d);
    w.w2 = read_.matrix(p + "w2", d, inner);
    w.w3 = read_.matrix(p + "w3", inner, d);
    return w;
  }

  const config& c_;
  tensor_table& files_;
  weight_reader read_;
  model_weights out_;
};

}  // namespace detail

class checkpoint {
 public:
  /// `path`: a checkpoint directory, or one .safetensors file beside its config.json.
  /// @throws format_error, unsupported
  static checkpoint open(const std::filesystem::path& path, const checkpoint_options& options = {}) {
    namespace fs = std::filesystem;
    std::error_code none;
    if (!fs::exists(path, none)) fail_format(path, "does not exist");
    const fs::path beside = path.has_parent_path() ? path.parent_path() : fs::path(".");
    checkpoint c;
    c.config_ = read_config(fs::is_directory(path, none) ? path : beside);
    c.files_ = tensor_table::open(path, options.max_decompressed);
    c.weights_ = detail::weight_binder(c.config_, c.files_, c.copies_).run();
    const bool small = c.bytes() <= automatic_scan_limit;
    if (options.scan == scan_rule::always || (options.scan == scan_rule::automatic && small)) c.scan();
    return c;
  }

  const config& configuration() const { return config_; }
  /// Views into this object's files: the checkpoint must outlive every use.  `mtp` is empty when the
  /// files hold no mtp.* tensors, whatever the configuration says (transformers drops them).
  const model_weights& weights() const { return weights_; }

  /// Every tensor of every file, in alphabetical order of the hub's names.
  const std::vector<stored_tensor>& tensors() const { return files_.tensors(); }
  const std::vector<safetensors>& files() const { return files_.files(); }
  const std::filesystem::path& path() const { return files_.path(); }
  /// By the hub's name; null when there is none.
  const tensor_info* find(std::string_view name) const {
    const stored_tensor* t = files_.find(name);
    return t ? t->stored : nullptr;
  }
  /// Tensors that are no part of the model; nothing reads them.
  std::vector<const stored_tensor*> unused() const {
    std::vector<const stored_tensor*> out;
    for (const stored_tensor& t : tensors())
      if (!t.used) out.push_back(&t);
    return out;
  }
  /// Of all tensors, as stored.
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const stored_tensor& t : tensors()) sum += t.stored->bytes;
    return sum;
  }
  /// Bytes of the matrices that had to be copied because the file does not align their elements.
  std::size_t realigned_bytes() const { return copies_.bytes; }

 private:
  void scan() {
    const weight_reader read(files_, copies_);
    for (const stored_tensor& t : tensors())
      if (t.used) read.check_finite(t);
  }

  config config_;
  tensor_table files_;
  realigned_matrices copies_;
  model_weights weights_;
};

}  // namespace dsv4::io
