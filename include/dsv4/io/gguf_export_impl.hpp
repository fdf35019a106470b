// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of gguf_export.hpp.
#include <array>
#include <cstring>

#include "../core/config_macros.hpp"
#include "../num/minifloat.hpp"
#include "checkpoint.hpp"
#include "gguf_export.hpp"
#include "gguf_names.hpp"
#include "gguf_writer.hpp"
#include "hub_layout.hpp"

namespace dsv4::io {

namespace detail {

/// The layers' configuration alone.
inline config without_mtp(config c) {
  c.num_nextn_predict_layers = 0;
  c.compress_ratios.resize(usize(c.num_hidden_layers));
  return c;
}

inline void mxfp4_nibbles(const std::byte* pairs, std::byte* out) {
  std::array<unsigned, 32> code{};
  for (std::size_t i = 0; i < 16; ++i) {
    const unsigned b = std::to_integer<unsigned>(pairs[i]);
    code[2 * i] = b & 15, code[2 * i + 1] = b >> 4;
  }
  for (std::size_t i = 0; i < 16; ++i) out[i] = static_cast<std::byte>(code[i] | code[i + 16] << 4);
}

inline void put_config(gguf_writer& w, const config& c) {
  const std::string a = std::string(gguf_architecture) + ".";
  w.put("general.architecture", gguf_architecture);
  w.put("tokenizer.ggml.model", std::string_view("none"));
  const auto count = [&](const char* key, index_t v) { w.put(a + key, static_cast<std::uint32_t>(v)); };
  const auto real = [&](const char* key, double v) { w.put(a + key, static_cast<float>(v)); };
  count("vocab_size", c.vocab_size);
  count("context_length", c.max_position_embeddings);
  count("embedding_length", c.hidden_size);
  count("block_count", c.num_hidden_layers);
  count("feed_forward_length", c.moe_intermediate_size);
  count("attention.head_count", c.num_attention_heads);
  count("attention.head_count_kv", 1);
  count("attention.key_length", c.head_dim);
  count("attention.value_length", c.head_dim);
  real("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
  count("attention.q_lora_rank", c.q_lora_rank);
  count("attention.output_lora_rank", c.o_lora_rank);
  count("attention.output_group_count", c.o_groups);
  count("attention.sliding_window", c.sliding_window);
  real("attention.compress_rope_freq_base", c.compress_rope_theta);
  std::vector<std::uint32_t> ratios;
  for (const index_t r : c.compress_ratios) ratios.push_back(static_cast<std::uint32_t>(r));
  w.put(a + "attention.compress_ratios", ratios);
  count("attention.indexer.head_count", c.index_n_heads);
  count("attention.indexer.key_length", c.index_head_dim);
  count("attention.indexer.top_k", c.index_topk);
  real("rope.freq_base", c.rope_theta);
  count("rope.dimension_count", c.qk_rope_head_dim);
  if (c.has_yarn) {
    w.put(a + "rope.scaling.type", std::string_view("yarn"));
    real("rope.scaling.factor", c.yarn.factor);
    count("rope.scaling.original_context_length", c.yarn.original_max_position_embeddings);
    real("rope.scaling.yarn_beta_fast", c.yarn.beta_fast);
    real("rope.scaling.yarn_beta_slow", c.yarn.beta_slow);
  }
  count("expert_count", c.n_routed_experts);
  count("expert_used_count", c.num_experts_per_tok);
  count("expert_shared_count", c.n_shared_experts);
  count("expert_feed_forward_length", c.moe_intermediate_size);
  real("expert_weights_scale", c.routed_scaling_factor);
  w.put(a + "expert_weights_norm", true);
  count("expert_gating_func", sqrtsoftplus);
  w.put(a + "swiglu_clamp_exp",
        std::vector<float>(usize(c.num_hidden_layers), static_cast<float>(c.swiglu_limit)));
  count("hash_layer_count", c.num_hash_layers);
  count("hyper_connection.count", c.hc_mult);
  count("hyper_connection.sinkhorn_iterations", c.hc_sinkhorn_iters);
  real("hyper_connection.epsilon", c.hc_eps);
}

/// A stored matrix or vector of a checkpoint, as GGUF will have it.
struct exported_weight {
  const tensor_info* values;
  const tensor_info* scale;  // null without one
  std::string name;          // the hub's
};

/// Scales as E8M0 bytes, whatever the checkpoint keeps them in.
inline std::vector<std::byte> e8m0_bytes(const exported_weight& w) {
  std::vector<std::byte> out;
  for (index_t i = 0; i < w.scale->elements; ++i) {
    if (w.scale->type == dtype::f8_e8m0) {
      out.push_back(w.scale->data[i]);
      continue;
    }
    float s = 0;
    if (w.scale->type == dtype::f32) std::memcpy(&s, w.scale->data + usize(i) * sizeof s, sizeof s);
    const e8m0 up = e8m0::encode_up(s);
    if (!(s > 0) || up.decode() != static_cast<double>(s))
      throw unsupported(w.name + ": scales that are no powers of two have no place in a GGUF");
    out.push_back(static_cast<std::byte>(up.bits));
  }
  return out;
}

inline double stored_value(const tensor_info& t, index_t i) {
  const auto at = [&]<class T>(T v) {
    std::memcpy(&v, t.data + usize(i) * sizeof v, sizeof v);
    return v;
  };
  switch (t.type) {
    case dtype::f32: return at(0.0f);
    case dtype::bf16: return bf16{at(std::uint16_t{})}.decode();
    case dtype::f16: return f16{at(std::uint16_t{})}.decode();
    case dtype::i32: return at(std::int32_t{});
    case dtype::i64: return static_cast<double>(at(std::int64_t{}));
    default:
      throw unsupported("tensor " + in_quotes(t.name) + ": " + std::string(name_of(t.type)) +
                        " has no place in a GGUF");
  }
}

/// What a weight is stored as there.
inline gguf_type exported_type(const exported_weight& w) {
  const tensor_info& t = *w.values;
  if (t.type == dtype::i8 && w.scale) return gguf_type::mxfp4;
  if (t.type == dtype::f8_e4m3) return gguf_type::bf16;
  if (is_integer(t.type)) return gguf_type::i32;
  if (t.shape.size() < 2) return gguf_type::f32;
  switch (t.type) {
    case dtype::f32: return gguf_type::f32;
    case dtype::bf16: return gguf_type::bf16;
    case dtype::f16: return gguf_type::f16;
    default:
      throw unsupported("tensor " + in_quotes(t.name) + ": " + std::string(name_of(t.type)) +
                        " has no place in a GGUF");
  }
}

inline void export_values(const exported_weight& w, gguf_type type, const gguf_writer::sink& to) {
  const tensor_info& t = *w.values;
  std::vector<std::byte> row;
  const auto put = [&](auto v) {
    const auto* p = reinterpret_cast<const std::byte*>(&v);
    row.insert(row.end(), p, p + sizeof v);
  };
  const index_t rows = t.shape.size() < 2 ? 1 : t.shape[0], stored = t.elements / std::max<index_t>(1, rows);
  const bool same = (type == gguf_type::f32 && t.type == dtype::f32) ||
                    (type == gguf_type::f16 && t.type == dtype::f16) ||
                    (type == gguf_type::bf16 && t.type == dtype::bf16);
  if (same) return to(t.data, t.bytes);
  const std::vector<std::byte> scales = w.scale ? e8m0_bytes(w) : std::vector<std::byte>();
  for (index_t r = 0; r < rows; ++r) {
    row.clear();
    if (type == gguf_type::mxfp4) {
      const index_t blocks = stored / 16;
      for (index_t b = 0; b < blocks; ++b) {
        row.push_back(scales[usize(r * blocks + b)]);
        std::array<std::byte, 16> codes{};
        mxfp4_nibbles(t.data + r * stored + b * 16, codes.data());
        row.insert(row.end(), codes.begin(), codes.end());
      }
    } else if (t.type == dtype::f8_e4m3) {
      const index_t tile_cols = (stored + fp8_tile - 1) / fp8_tile;
      for (index_t i = 0; i < stored; ++i) {
        const double s =
            e8m0::from_bits(std::to_integer<unsigned>(scales[usize(r / fp8_tile * tile_cols + i / fp8_tile)]))
                .decode();
        const double v = e4m3::from_bits(std::to_integer<unsigned>(t.data[r * stored + i])).decode() * s;
        const bf16 narrow = bf16::encode(v);
        if (!(narrow.decode() == v))
          throw unsupported(w.name + ": " + std::to_string(v) + " is not exact in BF16");
        put(narrow.bits);
      }
    } else {
      for (index_t i = 0; i < stored; ++i) {
        const double v = stored_value(t, r * stored + i);
        if (type == gguf_type::i32)
          put(static_cast<std::int32_t>(v));
        else
          put(static_cast<float>(v));
      }
    }
    to(row.data(), row.size());
  }
}

}  // namespace detail

DSV4_INLINE std::vector<std::string> export_gguf(const checkpoint& model, const std::filesystem::path& out) {
  const config c = detail::without_mtp(model.configuration());
  gguf_writer w;
  detail::put_config(w, c);
  const auto weight = [&](const std::string& name) {
    const std::string scale = name.ends_with("weight") ? name.substr(0, name.size() - 6) + "scale" : name;
    detail::exported_weight e{model.find(name), scale == name ? nullptr : model.find(scale), name};
    if (!e.values)
      fail_unsupported(model.path(),
                       "tensor " + in_quotes(name) + " is not there by itself (stacked experts?)");
    return e;
  };
  for (const hub_tensor& t : hub_layout(c)) {
    const bool stacked = detail::is_experts(t.name);
    if (t.name.ends_with(".scale") || (stacked && detail::expert_of(t.name) > 0)) continue;
    const std::string name = gguf_name(t.name);
    // The experts of a layer, or the one weight.
    std::vector<detail::exported_weight> parts;
    const std::size_t at = t.name.find(".experts.") + std::string_view(".experts.").size();
    for (index_t e = 0; e < (stacked ? c.n_routed_experts : 1); ++e)
      parts.push_back(weight(
          stacked ? t.name.substr(0, at) + std::to_string(e) + t.name.substr(t.name.find('.', at)) : t.name));
    const gguf_type type = detail::exported_type(parts[0]);
    std::vector<index_t> shape = t.shape;
    if (shape.size() == 2) shape[1] = t.columns;
    if (stacked) shape.insert(shape.begin(), c.n_routed_experts);
    std::vector<std::byte> scales;
    for (const detail::exported_weight& p : parts) {
      if (detail::exported_type(p) != type)
        fail_unsupported(model.path(), "experts of a layer that are stored in different types");
      if (p.values->type != dtype::f8_e4m3) continue;
      if (!p.scale) fail_format(model.path(), p.name + ": FP8 without scales");
      const auto own = detail::e8m0_bytes(p);
      scales.insert(scales.end(), own.begin(), own.end());
    }
    if (!scales.empty()) w.put(std::string(detail::fp8_scale_key) + name, std::span<const std::byte>(scales));
    w.add(name, type, shape, [parts, type](const gguf_writer::sink& to) {
      for (const detail::exported_weight& p : parts) detail::export_values(p, type, to);
    });
  }
  w.write(out);
  std::vector<std::string> left_out;
  if (!model.weights().mtp.empty()) left_out.push_back("the MTP blocks were left out");
  return left_out;
}

}  // namespace dsv4::io
