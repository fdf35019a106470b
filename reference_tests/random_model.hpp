// SPDX-License-Identifier: MIT
#pragma once
/// Models with random weights, for any configuration, in any of the stored formats.  The generator works
/// on integers only, so every machine makes the same bits.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "dsv4/core/config.hpp"
#include "dsv4/model/weights.hpp"

namespace dsv4_test {

using namespace dsv4;
using dsv4::index_t;

/// splitmix64.
struct integers {
  std::uint64_t state;

  std::uint64_t next() {
    std::uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  index_t below(index_t n) { return static_cast<index_t>(next() >> 1) % n; }
  /// k * 2^-12, uniform in [-1, 1): exact in float.
  float unit() { return static_cast<float>(below(8192) - 4096) * 0x1p-12f; }
};

/// Token ids of a vocabulary.
inline std::vector<std::int32_t> random_ids(index_t n, index_t vocab, std::uint64_t seed) {
  integers r{seed};
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  for (auto& id : ids) id = static_cast<std::int32_t>(r.below(vocab));
  return ids;
}

enum class stored_as { f32, bf16, fp8, fp4 };

/// Which format where.
struct formats {
  stored_as projections, experts, plain;  // plain: embed, head, gate, compressors, weights_proj
};
inline constexpr formats published{stored_as::fp8, stored_as::fp4, stored_as::bf16};
inline constexpr formats base{stored_as::fp8, stored_as::fp8, stored_as::bf16};
inline constexpr formats all_f32{stored_as::f32, stored_as::f32, stored_as::f32};
inline constexpr formats all_bf16{stored_as::bf16, stored_as::bf16, stored_as::bf16};

/// A small model that has everything: window, CSA and HCA layers, a hash layer, MTP; 40 tokens cross the
/// window, the HCA block and index_topk blocks.
inline config tiny_config() {
  config c;
  c.vocab_size = 48;
  c.hidden_size = 32;
  c.moe_intermediate_size = 32;
  c.num_hidden_layers = 4;
  c.num_hash_layers = 1;
  c.num_attention_heads = 2;
  c.head_dim = 32;
  c.qk_rope_head_dim = 8;
  c.q_lora_rank = 16;
  c.o_groups = 2;
  c.o_lora_rank = 16;
  c.n_routed_experts = 6;
  c.num_experts_per_tok = 2;
  c.routed_scaling_factor = 1.5;
  c.swiglu_limit = 2;
  c.index_n_heads = 4;
  c.index_head_dim = 16;
  c.index_topk = 4;
  c.sliding_window = 8;
  c.max_position_embeddings = 1024;
  c.yarn.original_max_position_embeddings = 64;
  c.num_nextn_predict_layers = 1;
  c.compress_ratios = {0, 4, 16, 4, 0};
  return c;
}
/// The same with a DSpark drafter in the place of MTP.
inline config with_drafter(config c, index_t block = 4, index_t stages = 2) {
  c.num_nextn_predict_layers = 0;
  c.compress_ratios.resize(static_cast<std::size_t>(c.num_hidden_layers));
  c.dspark = {stages, block, c.vocab_size - 1, 8, {c.num_hidden_layers - 1, 0}};
  return c;
}
/// The same with other layers (the MTP block stays window-only).
inline config tiny_config(std::vector<index_t> ratios, index_t window = 8) {
  config c = tiny_config();
  c.num_hidden_layers = static_cast<index_t>(ratios.size());
  c.num_hash_layers = 0;
  c.compress_ratios = std::move(ratios);
  c.compress_ratios.push_back(0);
  c.sliding_window = window;
  return c;
}

/// Owns what model_weights points to.  Weights may be changed before they are used.
class random_model {
 public:
  config c;
  model_weights<> weights;

  explicit random_model(const config& configuration, const formats& f = published, std::uint64_t seed = 1)
      : c(configuration), f_(f), r_{seed} {
    weights = weight_tree<storage::stored>(c);
    each_weight(weights, c, [&](const weight_info& i, auto&) { infos_.emplace(i.name, i); });
    // In this order the numbers of the generator go to the weights; tests hold what follows from them.
    weights.embed = matrix("embed.weight", 2);
    weights.head = matrix("head.weight");
    weights.norm = around_one("norm.weight");
    hyper("hc_head", weights.hc_head);
    for (std::size_t l = 0; l < weights.layers.size(); ++l)
      block("layers." + std::to_string(l) + ".", weights.layers[l]);
    for (std::size_t b = 0; b < weights.mtp.size(); ++b) {
      const std::string p = "mtp." + std::to_string(b) + ".";
      mtp_weights<>& m = weights.mtp[b];
      m.enorm = around_one(p + "enorm.weight");
      m.hnorm = around_one(p + "hnorm.weight");
      m.e_proj = matrix(p + "e_proj.weight");
      m.h_proj = matrix(p + "h_proj.weight");
      block(p, m.block);
      hyper(p + "hc_head", m.hc_head);
      m.norm = around_one(p + "norm.weight");
    }
    if (weights.dspark) drafter(*weights.dspark);
    infos_.clear();
  }
  random_model(random_model&&) = default;
  random_model(const random_model&) = delete;

  /// Entries of about 2^gain / sqrt(cols): products of normed vectors are of the size of 2^gain.
  weight_matrix matrix(index_t rows, index_t cols, stored_as format, int gain = 0) {
    int e = gain;  // 2^e ~ 2^gain / sqrt(cols)
    for (index_t n = 1; n < cols; n *= 4) --e;
    weight_matrix w;
    w.rows = rows;
    w.cols = cols;
    switch (format) {
      case stored_as::f32: {
        w.type = dtype::f32;
        std::byte* p = bytes(rows * cols * 4);
        w.data = p;
        for (index_t i = 0; i < rows * cols; ++i) {
          const float v = std::ldexp(r_.unit(), e + 1);
          std::memcpy(p + 4 * i, &v, 4);
        }
        break;
      }
      case stored_as::bf16: {
        w.type = dtype::bf16;
        std::byte* p = bytes(rows * cols * 2);
        w.data = p;
        for (index_t i = 0; i < rows * cols; ++i) {
          // 8 bits of an integer fit the significand, so the upper half of the float is exact.
          const float v = std::ldexp(static_cast<float>(r_.below(256) - 128), e - 6);
          const auto bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(v) >> 16);
          std::memcpy(p + 2 * i, &bits, 2);
        }
        break;
      }
      case stored_as::fp8: {
        w.type = dtype::f8_e4m3;
        w.tile_rows = w.tile_cols = fp8_tile;
        std::byte* p = bytes(rows * cols);
        w.data = p;
        // Exponent fields 4 to 7: magnitudes from 1/8 to 15/8.
        for (index_t i = 0; i < rows * cols; ++i)
          p[i] = static_cast<std::byte>(r_.below(2) << 7 | (4 + r_.below(4)) << 3 | r_.below(8));
        scales(w, e);
        break;
      }
      case stored_as::fp4: {
        w.type = dtype::f4_e2m1;
        w.tile_rows = 1;
        w.tile_cols = fp4_tile_cols;
        std::byte* p = bytes(rows * cols / 2);
        w.data = p;
        for (index_t i = 0; i < rows * cols / 2; ++i) p[i] = static_cast<std::byte>(r_.below(256));
        scales(w, e - 2);
        break;
      }
    }
    return w;
  }
  /// In [1/2, 3/2), as stored norms are.
  tensor<float, 1> around_one(index_t n) {
    tensor<float, 1> v(n);
    for (index_t i = 0; i < n; ++i) v[i] = 1 + static_cast<float>(r_.below(128) - 64) * 0x1p-7f;
    return v;
  }
  tensor<float, 1> vector(index_t n, float size) {
    tensor<float, 1> v(n);
    for (index_t i = 0; i < n; ++i) v[i] = size * r_.unit();
    return v;
  }
  integers& generator() { return r_; }

 private:
  std::byte* bytes(index_t n) {
    storage_.emplace_back(n);
    return storage_.back().data();
  }
  void scales(weight_matrix& w, int e) {
    w.scale_type = dtype::f8_e8m0;
    const index_t n = (w.rows + w.tile_rows - 1) / w.tile_rows * w.scale_cols();
    std::byte* p = bytes(n);
    w.scale = p;
    constexpr int e8m0_bias = 127;
    for (index_t i = 0; i < n; ++i)
      p[i] = static_cast<std::byte>(e8m0_bias + e + static_cast<int>(r_.below(2)));
  }
  /// Shape and published format of a weight, from the tree.
  const weight_info& info(const std::string& name) const { return infos_.at(name); }
  stored_as format_of(const weight_info& i) const {
    const bool shared = i.name.find(".shared_experts.") != i.name.npos;
    switch (i.format) {
      case weight_format::fp4: return f_.experts;
      case weight_format::fp8: return shared && f_.experts != stored_as::fp4 ? f_.experts : f_.projections;
      case weight_format::bfloat16: return f_.plain;
      default: return stored_as::f32;
    }
  }
  weight_matrix matrix(const std::string& name, int gain = 0) {
    const weight_info& i = info(name);
    return matrix(i.shape[0], i.shape[1], format_of(i), gain);
  }
  tensor<float, 1> around_one(const std::string& name) { return around_one(info(name).shape[0]); }
  tensor<float, 1> vector(const std::string& name, float size) { return vector(info(name).shape[0], size); }

  void hyper(const std::string& p, hyper_connection_weights<>& w) {
    w.fn = matrix(p + "_fn");
    w.base = vector(p + "_base", 1);
    w.scale = around_one(p + "_scale");
  }
  void compressor(const std::string& p, compressor_weights<>& w) {
    w.wkv = matrix(p + "wkv.weight");
    w.wgate = matrix(p + "wgate.weight");
    const weight_info& ape = info(p + "ape");
    w.ape = tensor<float, 2>(ape.shape[0], ape.shape[1]);
    for (index_t i = 0; i < w.ape.size(); ++i) w.ape.data()[i] = r_.unit();
    w.norm = around_one(p + "norm.weight");
  }
  void attention(const std::string& p, attention_weights<>& w) {
    w.wq_a = matrix(p + "wq_a.weight");
    w.q_norm = around_one(p + "q_norm.weight");
    w.wq_b = matrix(p + "wq_b.weight");
    w.wkv = matrix(p + "wkv.weight");
    w.kv_norm = around_one(p + "kv_norm.weight");
    w.attn_sink = vector(p + "attn_sink", 1);
    w.wo_a = matrix(p + "wo_a.weight");
    w.wo_b = matrix(p + "wo_b.weight");
    if (w.compressor) compressor(p + "compressor.", *w.compressor);
    if (w.indexer) {
      w.indexer->wq_b = matrix(p + "indexer.wq_b.weight");
      w.indexer->weights_proj = matrix(p + "indexer.weights_proj.weight");
      compressor(p + "indexer.compressor.", w.indexer->compressor);
    }
  }
  void expert(const std::string& p, expert_weights<>& w) {
    w.w1 = matrix(p + "w1.weight", 1);
    w.w3 = matrix(p + "w3.weight", 1);
    w.w2 = matrix(p + "w2.weight");
  }
  /// Distinct experts for every token in no particular order, as I64.
  expert_table table(const weight_info& i) {
    const index_t experts = c.n_routed_experts, rows = i.shape[0], k = i.shape[1];
    auto* p = bytes(rows * k * 8);
    for (index_t t = 0; t < rows; ++t) {
      const index_t first = r_.below(experts), step = experts > 1 ? 1 + r_.below(experts - 1) : 0;
      std::vector<std::int64_t> row{first};
      for (index_t at = first + step; static_cast<index_t>(row.size()) < k; ++at) {
        const std::int64_t e = at % experts;
        if (std::find(row.begin(), row.end(), e) == row.end()) row.push_back(e);
      }
      std::memcpy(p + t * k * 8, row.data(), static_cast<std::size_t>(k) * 8);
    }
    return {dtype::i64, p, rows, k};
  }
  void moe(const std::string& p, moe_weights<>& w) {
    w.gate.weight = matrix(p + "gate.weight");
    if (const auto hash = infos_.find(p + "gate.tid2eid"); hash != infos_.end())
      w.gate.tid2eid = table(hash->second);
    else
      w.gate.bias = vector(p + "gate.bias", 0.5f);
    for (std::size_t e = 0; e < w.experts.size(); ++e)
      expert(p + "experts." + std::to_string(e) + ".", w.experts[e]);
    expert(p + "shared_experts.", w.shared);
  }
  void block(const std::string& p, block_weights<>& w) {
    hyper(p + "hc_attn", w.hc_attn);
    hyper(p + "hc_ffn", w.hc_ffn);
    w.attn_norm = around_one(p + "attn_norm.weight");
    w.ffn_norm = around_one(p + "ffn_norm.weight");
    attention(p + "attn.", w.attn);
    moe(p + "ffn.", w.ffn);
  }

  void drafter(dspark_weights<>& w) {
    w.main_proj = matrix("mtp.0.main_proj.weight");
    w.main_norm = around_one("mtp.0.main_norm.weight");
    std::string p;
    for (std::size_t s = 0; s < w.stages.size(); ++s) {
      p = "mtp." + std::to_string(s) + ".";
      block(p, w.stages[s]);
    }
    hyper(p + "hc_head", w.hc_head);
    w.norm = around_one(p + "norm.weight");
    w.markov_w1 = matrix(p + "markov_head.markov_w1.weight", 2);
    w.markov_w2 = matrix(p + "markov_head.markov_w2.weight");
    w.confidence = matrix(p + "confidence_head.proj.weight", 1);
  }

  std::map<std::string, weight_info> infos_;
  formats f_;
  integers r_;
  std::vector<tensor<std::byte, 1>> storage_;
};

}  // namespace dsv4_test
