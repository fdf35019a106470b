// SPDX-License-Identifier: MIT
#pragma once
/// A checkpoint of a few hundred kilobytes, made here, that has every kind of layer: hash + window, CSA,
/// HCA, MTP.  Its names and shapes are written down once more, from the published layout and not from
/// the code under test; tests change one thing in it and look at what happens.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "dsv4/io/safetensors_writer.hpp"

namespace mini {

using dsv4::dtype;
using dsv4::index_t;

struct stored {
  dtype type;
  std::vector<index_t> shape;
  std::vector<std::byte> bytes;
};
using tensors = std::map<std::string, stored>;

/// How matrices are stored; `official`: FP8 with E8M0 scales, experts FP4; `base`: all FP8, scales F32.
enum class form { official, base, bf16, f16, f32 };

inline constexpr index_t vocab = 24, hidden = 160, inner = 128, heads = 4, head_dim = 64, q_rank = 96,
                         groups = 2, o_rank = 32, experts = 3, per_token = 2, streams = 2, index_heads = 2,
                         index_dim = 32;

inline nlohmann::json config_json() {
  return {{"model_type", "deepseek_v4"},
          {"vocab_size", vocab},
          {"hidden_size", hidden},
          {"moe_intermediate_size", inner},
          {"num_hidden_layers", 3},
          {"num_hash_layers", 1},
          {"num_attention_heads", heads},
          {"head_dim", head_dim},
          {"qk_rope_head_dim", 16},
          {"q_lora_rank", q_rank},
          {"o_groups", groups},
          {"o_lora_rank", o_rank},
          {"n_routed_experts", experts},
          {"n_shared_experts", 1},
          {"num_experts_per_tok", per_token},
          {"routed_scaling_factor", 1.5},
          {"scoring_func", "sqrtsoftplus"},
          {"swiglu_limit", 10.0},
          {"rms_norm_eps", 1e-6},
          {"hc_mult", streams},
          {"hc_sinkhorn_iters", 20},
          {"hc_eps", 1e-6},
          {"sliding_window", 8},
          {"index_n_heads", index_heads},
          {"index_head_dim", index_dim},
          {"index_topk", 4},
          {"max_position_embeddings", 4096},
          {"rope_theta", 10000},
          {"compress_rope_theta", 160000},
          {"num_nextn_predict_layers", 1},
          {"rope_scaling",
           {{"type", "yarn"},
            {"factor", 16},
            {"beta_fast", 32},
            {"beta_slow", 1},
            {"original_max_position_embeddings", 256}}},
          {"compress_ratios", {0, 4, 16, 0}},
          {"tie_word_embeddings", false}};
}

/// Finite, harmless numbers in every type: small values, scales near 1.
class maker {
 public:
  maker(tensors& out, form f) : out_(out), form_(f) {}

  void put(const std::string& name, dtype type, std::vector<index_t> shape) {
    index_t n = 1;
    for (index_t s : shape) n *= s;
    std::vector<std::byte> bytes(static_cast<std::size_t>(n * dsv4::bits_of(type) / 8));
    for (index_t i = 0; i < n; ++i) {
      const std::uint32_t r = next();
      const double x = (static_cast<double>(r % 2001) - 1000) / 1024;  // exact in float, rounded below
      std::byte* p = bytes.data() + i * dsv4::bits_of(type) / 8;
      const auto store = [&](auto v) { std::memcpy(p, &v, sizeof v); };
      switch (type) {
        case dtype::f32:
          store(name.ends_with(".scale") ? std::ldexp(1.0f, static_cast<int>(r % 5) - 2)
                                         : static_cast<float>(x));
          break;
        case dtype::bf16: store(dsv4::bf16::encode(x)); break;
        case dtype::f16: store(dsv4::f16::encode(x)); break;
        case dtype::f8_e4m3: store(dsv4::e4m3::encode(x)); break;
        case dtype::f8_e8m0: store(static_cast<std::uint8_t>(125 + r % 5)); break;
        case dtype::i8: store(static_cast<std::uint8_t>(r)); break;
        case dtype::i64: store(static_cast<std::int64_t>(r % experts)); break;
        default: throw std::logic_error("mini checkpoint: type");
      }
    }
    out_[name] = {type, std::move(shape), std::move(bytes)};
  }
  /// A projection that the official checkpoint quantises.
  void quantised(const std::string& stem, index_t rows, index_t cols, bool expert = false) {
    const auto tiles = [](index_t n) { return (n + 127) / 128; };
    if (form_ == form::official && expert) {
      put(stem + ".weight", dtype::i8, {rows, cols / 2});
      put(stem + ".scale", dtype::f8_e8m0, {rows, cols / 32});
    } else if (form_ == form::official || form_ == form::base) {
      put(stem + ".weight", dtype::f8_e4m3, {rows, cols});
      put(stem + ".scale", form_ == form::base ? dtype::f32 : dtype::f8_e8m0, {tiles(rows), tiles(cols)});
    } else {
      plain(stem, rows, cols);
    }
  }
  void plain(const std::string& stem, index_t rows, index_t cols) {
    put(stem + ".weight", narrow(), {rows, cols});
  }
  void norm(const std::string& stem, index_t n) { put(stem + ".weight", narrow(), {n}); }

 private:
  dtype narrow() const {
    return form_ == form::f32 ? dtype::f32 : form_ == form::f16 ? dtype::f16 : dtype::bf16;
  }
  std::uint32_t next() {  // xorshift
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    return state_ ^= state_ << 5;
  }
  tensors& out_;
  form form_;
  std::uint32_t state_ = 2463534242u;
};

inline void put_streams(maker& m, const std::string& p, index_t mixes, index_t scales) {
  m.put(p + "_fn", dtype::f32, {mixes, streams * hidden});
  m.put(p + "_base", dtype::f32, {mixes});
  m.put(p + "_scale", dtype::f32, {scales});
}
inline void put_compressor(maker& m, const std::string& p, index_t ratio, index_t width) {
  const index_t out = (ratio == 4 ? 2 : 1) * width;
  m.put(p + "ape", dtype::f32, {ratio, out});
  m.plain(p + "wkv", out, hidden);
  m.plain(p + "wgate", out, hidden);
  m.norm(p + "norm", width);
}
inline void put_expert(maker& m, const std::string& p, bool routed) {
  m.quantised(p + "w1", inner, hidden, routed);
  m.quantised(p + "w2", hidden, inner, routed);
  m.quantised(p + "w3", inner, hidden, routed);
}
inline void put_block(maker& m, const std::string& p, index_t ratio, bool hash) {
  const index_t mixes = (2 + streams) * streams;
  put_streams(m, p + "hc_attn", mixes, 3);
  put_streams(m, p + "hc_ffn", mixes, 3);
  m.norm(p + "attn_norm", hidden);
  m.norm(p + "ffn_norm", hidden);
  m.quantised(p + "attn.wq_a", q_rank, hidden);
  m.norm(p + "attn.q_norm", q_rank);
  m.quantised(p + "attn.wq_b", heads * head_dim, q_rank);
  m.quantised(p + "attn.wkv", head_dim, hidden);
  m.norm(p + "attn.kv_norm", head_dim);
  m.quantised(p + "attn.wo_a", groups * o_rank, heads * head_dim / groups);
  m.quantised(p + "attn.wo_b", hidden, groups * o_rank);
  m.put(p + "attn.attn_sink", dtype::f32, {heads});
  if (ratio) put_compressor(m, p + "attn.compressor.", ratio, head_dim);
  if (ratio == 4) {
    m.quantised(p + "attn.indexer.wq_b", index_heads * index_dim, q_rank);
    m.plain(p + "attn.indexer.weights_proj", index_heads, hidden);
    put_compressor(m, p + "attn.indexer.compressor.", ratio, index_dim);
  }
  m.plain(p + "ffn.gate", experts, hidden);
  if (hash) {
    m.put(p + "ffn.gate.tid2eid", dtype::i64, {vocab, per_token});
  } else {
    m.put(p + "ffn.gate.bias", dtype::f32, {experts});
  }
  for (index_t e = 0; e < experts; ++e) put_expert(m, p + "ffn.experts." + std::to_string(e) + ".", true);
  put_expert(m, p + "ffn.shared_experts.", false);
}

inline tensors make(form f = form::official) {
  tensors out;
  maker m(out, f);
  m.plain("embed", vocab, hidden);
  m.plain("head", vocab, hidden);
  m.norm("norm", hidden);
  put_streams(m, "hc_head", streams, 1);
  put_block(m, "layers.0.", 0, true);
  put_block(m, "layers.1.", 4, false);
  put_block(m, "layers.2.", 16, false);
  m.quantised("mtp.0.e_proj", hidden, hidden);
  m.quantised("mtp.0.h_proj", hidden, hidden);
  for (const char* n : {"enorm", "hnorm", "norm"}) m.norm("mtp.0." + std::string(n), hidden);
  put_streams(m, "mtp.0.hc_head", streams, 1);
  put_block(m, "mtp.0.", 0, false);
  return out;
}

// A DSpark drafter of two stages in the place of MTP.
inline constexpr index_t markov_rank = 32;
inline nlohmann::json drafter_config_json() {
  nlohmann::json j = config_json();
  j["compress_ratios"] = {0, 4, 16, 0, 0};
  j["dspark_block_size"] = 5;
  j["dspark_noise_token_id"] = vocab - 1;
  j["dspark_markov_rank"] = markov_rank;
  j["dspark_target_layer_ids"] = {2, 1, 0};
  return j;
}
inline tensors drafter() {
  tensors out;
  maker m(out, form::official);
  m.quantised("mtp.0.main_proj", hidden, 3 * hidden);
  m.norm("mtp.0.main_norm", hidden);
  put_block(m, "mtp.0.", 0, false);
  put_block(m, "mtp.1.", 0, false);
  put_streams(m, "mtp.1.hc_head", streams, 1);
  m.norm("mtp.1.norm", hidden);
  m.plain("mtp.1.markov_head.markov_w1", vocab, markov_rank);
  m.plain("mtp.1.markov_head.markov_w2", vocab, markov_rank);
  m.plain("mtp.1.confidence_head.proj", 1, hidden + markov_rank);
  return out;
}

inline void write_config(const std::filesystem::path& dir, const nlohmann::json& j = config_json()) {
  std::ofstream(dir / "config.json") << j;
}
inline void write_tensors(const std::filesystem::path& file, const tensors& t) {
  dsv4::io::safetensors_writer w;
  for (const auto& [name, s] : t) w.add(name, s.type, s.shape, s.bytes.data());
  w.write(file);
}
/// config.json and model.safetensors.
inline void write(const std::filesystem::path& dir, const tensors& t) {
  write_config(dir);
  write_tensors(dir / "model.safetensors", t);
}

}  // namespace mini
