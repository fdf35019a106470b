// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of gguf_deepseek4.hpp.
#include <array>
#include <charconv>
#include <cstring>

#include <nlohmann/json.hpp>

#include "../num/minifloat.hpp"
#include "config_json.hpp"
#include "gguf_deepseek4.hpp"
#include "gguf_names.hpp"
#include "hub_layout.hpp"

namespace dsv4::io {

namespace detail {

/// A float is what a decimal of a configuration became: the shortest that gives this float is taken for it.
inline double shortest_decimal(double v) {
  const auto f = static_cast<float>(v);
  if (static_cast<double>(f) != v) return v;
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, f).ptr;
  double out = v;
  std::from_chars(text, end, out);
  return out;
}

/// Rows [first, …) of a matrix as bytes, row by row: f(row, where it goes).
template <class F>
void each_row(index_t at, std::span<std::byte> out, std::size_t row_bytes, F&& f) {
  for (std::size_t done = 0; done < out.size(); done += row_bytes)
    f((at + static_cast<index_t>(done)) / static_cast<index_t>(row_bytes), out.subspan(done, row_bytes));
}

inline float f16_at(const std::byte* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return static_cast<float>(f16{bits}.decode());
}

/// Q8_0: an F16 scale, then 32 codes; code times scale has 18 bits, so a float holds it exactly.
inline void q8_0_row(const std::byte* in, std::span<std::byte> out) {
  const std::size_t blocks = out.size() / sizeof(float) / usize(q8_0_block.values);
  for (std::size_t b = 0; b < blocks; ++b, in += q8_0_block.bytes)
    for (index_t i = 0; i < q8_0_block.values; ++i) {
      const float v = f16_at(in) * static_cast<float>(static_cast<std::int8_t>(in[2 + i]));
      std::memcpy(out.data() + (b * usize(q8_0_block.values) + usize(i)) * sizeof v, &v, sizeof v);
    }
}
/// MXFP4 keeps values i and i + 16 of a block in byte i, a checkpoint values 2 i and 2 i + 1.
inline void fp4_pairs(const std::byte* block, std::byte* out) {
  std::array<unsigned, 32> code{};
  for (std::size_t i = 0; i < 16; ++i) {
    const unsigned b = std::to_integer<unsigned>(block[i]);
    code[i] = b & 15, code[i + 16] = b >> 4;
  }
  for (std::size_t i = 0; i < 16; ++i) out[i] = static_cast<std::byte>(code[2 * i] | code[2 * i + 1] << 4);
}
inline std::optional<dtype> plain_type(gguf_type t) {
  switch (t) {
    case gguf_type::f32: return dtype::f32;
    case gguf_type::f16: return dtype::f16;
    case gguf_type::bf16: return dtype::bf16;
    case gguf_type::f64: return dtype::f64;
    case gguf_type::i32: return dtype::i32;
    case gguf_type::i64: return dtype::i64;
    default: return std::nullopt;
  }
}

/// Imports the weights of a file one by one.
class gguf_importer {
 public:
  gguf_importer(const gguf& file, const config& c) : g_(file), c_(c) {}

  std::vector<imported_tensor> run() {
    // The list of a hostile configuration would be far longer than the file: every expert must be there first.
    const index_t experts = c_.n_routed_experts;
    for (index_t l = 0; l < c_.num_hidden_layers; ++l) {
      const std::string name = "blk." + std::to_string(l) + ".ffn_gate_exps.weight";
      const gguf_tensor* t = g_.find(name);
      if (!t || t->shape.empty() || t->shape[0] != experts || t->elements < experts)
        fail_format(g_.path(), "tensor " + in_quotes(name) + ": expected " + std::to_string(experts) +
                                   " experts, found " + (t ? shape_text(t->shape) : "none"));
    }
    for (const hub_tensor& t : hub_layout(c_))
      if (!t.name.ends_with(".scale")) weight(t);
    return std::move(out_);
  }

 private:
  void weight(const hub_tensor& t) {
    const std::string name = gguf_name(t.name);
    const gguf_tensor* from = g_.find(name);
    if (!from) fail_format(g_.path(), "tensor " + in_quotes(name) + " is missing (" + t.name + ")");
    std::vector<index_t> shape = t.shape;
    if (shape.size() == 2) shape[1] = t.columns;
    const bool stacked = is_experts(t.name);
    std::vector<index_t> expected = shape;
    if (stacked) expected.insert(expected.begin(), c_.n_routed_experts);
    if (from->shape != expected)
      fail_format(g_.path(), "tensor " + in_quotes(name) + ": found shape " + shape_text(from->shape) +
                                 ", expected " + shape_text(expected));
    if (!from->data)
      fail_unsupported(g_.path(), "tensor " + in_quotes(name) + ": blocks of " + name_of(from->type) +
                                      "; read are F32, F16, BF16, Q8_0, MXFP4");
    const index_t expert = stacked ? expert_of(t.name) : 0;
    const std::size_t part = from->bytes / (stacked ? usize(c_.n_routed_experts) : 1);
    const std::byte* data = from->data + usize(expert) * part;
    const std::size_t row = part / usize(shape[0]);
    const std::string scale = t.name.substr(0, t.name.size() - std::string_view("weight").size()) + "scale";

    if (const auto scales = g_.bytes(std::string(fp8_scale_key) + name); scales && shape.size() == 2) {
      fp8(t, scale, name, *from, data, row, shape, *scales, expert, stacked);
    } else if (const auto type = plain_type(from->type)) {
      out_.push_back({t.name, *type, shape, [data](index_t at, std::span<std::byte> to) {
                        std::memcpy(to.data(), data + at, to.size());
                      }});
    } else if (from->type == gguf_type::q8_0) {
      const std::size_t bytes = usize(shape.back()) * sizeof(float);
      out_.push_back({t.name, dtype::f32, shape, [=](index_t at, std::span<std::byte> to) {
                        each_row(at, to, bytes, [&](index_t r, std::span<std::byte> o) {
                          q8_0_row(data + usize(r) * row, o);
                        });
                      }});
    } else if (from->type == gguf_type::mxfp4 && shape.size() == 2) {
      const index_t blocks = shape[1] / mxfp4_block.values;
      out_.push_back({t.name, dtype::i8, {shape[0], shape[1] / 2}, [=](index_t at, std::span<std::byte> to) {
                        each_row(at, to, usize(shape[1] / 2), [&](index_t r, std::span<std::byte> o) {
                          for (index_t b = 0; b < blocks; ++b)
                            fp4_pairs(data + usize(r) * row + b * mxfp4_block.bytes + 1, o.data() + b * 16);
                        });
                      }});
      out_.push_back({scale, dtype::f8_e8m0, {shape[0], blocks}, [=](index_t at, std::span<std::byte> to) {
                        each_row(at, to, usize(blocks), [&](index_t r, std::span<std::byte> o) {
                          for (index_t b = 0; b < blocks; ++b)
                            o[usize(b)] = data[usize(r) * row + usize(b * mxfp4_block.bytes)];
                        });
                      }});
    } else {
      fail_unsupported(
          g_.path(), "tensor " + in_quotes(name) + ": " + name_of(from->type) + " in the place of " + t.name);
    }
  }

  /// Values that this library wrote as code times scale: the scales are metadata, the codes follow.
  void fp8(const hub_tensor& t, const std::string& scale, const std::string& name, const gguf_tensor& from,
           const std::byte* data, std::size_t row, const std::vector<index_t>& shape,
           std::span<const std::byte> scales, index_t expert, bool stacked) {
    const index_t tile_rows = (shape[0] + fp8_tile - 1) / fp8_tile,
                  tile_cols = (shape[1] + fp8_tile - 1) / fp8_tile;
    const std::size_t tiles = usize(tile_rows * tile_cols);
    const std::size_t parts = stacked ? usize(c_.n_routed_experts) : 1;
    if (scales.size() != tiles * parts || (from.type != gguf_type::bf16 && from.type != gguf_type::f32))
      fail_format(g_.path(), "metadata " + in_quotes(std::string(fp8_scale_key) + name) +
                                 ": not the scales of that tensor");
    const std::byte* own = scales.data() + usize(expert) * tiles;
    const bool wide = from.type == gguf_type::f32;
    const std::filesystem::path file = g_.path();
    out_.push_back(
        {t.name, dtype::f8_e4m3, shape, [=, columns = shape[1]](index_t at, std::span<std::byte> to) {
           each_row(at, to, usize(columns), [&](index_t r, std::span<std::byte> o) {
             for (index_t i = 0; i < columns; ++i) {
               double v;
               if (wide) {
                 float x;
                 std::memcpy(&x, data + usize(r) * row + usize(i) * sizeof x, sizeof x);
                 v = x;
               } else {
                 std::uint16_t x;
                 std::memcpy(&x, data + usize(r) * row + usize(i) * sizeof x, sizeof x);
                 v = bf16{x}.decode();
               }
               const double s =
                   e8m0::from_bits(std::to_integer<unsigned>(own[r / fp8_tile * tile_cols + i / fp8_tile]))
                       .decode();
               const e4m3 code = e4m3::encode(v / s);
               if (!(code.decode() * s == v))
                 fail_format(file, "tensor " + in_quotes(name) + ": found " + std::to_string(v) +
                                       ", which is no FP8 code times its scale");
               o[usize(i)] = static_cast<std::byte>(code.bits);
             }
           });
         }});
    out_.push_back(
        {scale, dtype::f8_e8m0, {tile_rows, tile_cols}, [own](index_t at, std::span<std::byte> to) {
           std::memcpy(to.data(), own + at, to.size());
         }});
  }

  const gguf& g_;
  const config& c_;
  std::vector<imported_tensor> out_;
};

}  // namespace detail

DSV4_INLINE std::size_t imported_tensor::bytes() const {
  index_t n = 1;
  for (const index_t s : shape) n *= s;
  return usize(n * bits_of(type) / 8);
}

DSV4_INLINE config config_of(const gguf& g) {
  const auto architecture = g.text("general.architecture");
  if (!architecture) fail_format(g.path(), "metadata 'general.architecture' is missing");
  if (*architecture != detail::gguf_architecture)
    fail_unsupported(g.path(),
                     "is a GGUF of the architecture " + in_quotes(*architecture) + ", expected 'deepseek4'");
  const std::string a = *architecture + ".";
  const auto need = [&](const char* key) {
    const auto v = g.real(a + key);
    if (!v) fail_format(g.path(), "metadata " + in_quotes(a + key) + " is missing");
    return *v;
  };
  const auto count = [&](const char* key) {
    need(key);
    return *g.integer(a + key);
  };
  const auto decimal = [&](const char* key) { return detail::shortest_decimal(need(key)); };
  if (g.integer(a + "expert_gating_func").value_or(detail::sqrtsoftplus) != detail::sqrtsoftplus)
    fail_unsupported(g.path(), "scores experts otherwise than by sqrtsoftplus");
  const index_t mtp = g.integer(a + "nextn_predict_layers").value_or(0), blocks = count("block_count");
  // Newer files count MTP blocks as layers, older ones do not: the tensors say.
  const bool counted =
      mtp > 0 && mtp < blocks && g.find("blk." + std::to_string(blocks - mtp) + ".nextn.eh_proj.weight");
  const index_t layers = counted ? blocks - mtp : blocks;
  nlohmann::json ratios = nlohmann::json::array();
  constexpr double most_ratio = 1 << 30;
  for (const double r : g.reals(a + "attention.compress_ratios"))
    if (!(r >= 0 && r <= most_ratio))
      fail_format(g.path(), "metadata 'attention.compress_ratios': found " + std::to_string(r));
    else if (static_cast<index_t>(ratios.size()) < layers)
      ratios.push_back(static_cast<std::int64_t>(r));
  std::vector<double> clamps = g.reals(a + "swiglu_clamp_exp");
  for (const double x : clamps)
    if (x != clamps[0])
      fail_unsupported(g.path(), "metadata 'swiglu_clamp_exp': another limit in each layer");
  const gguf_tensor* embedding = g.find("token_embd.weight");
  nlohmann::json j{
      {"model_type", "deepseek_v4"},
      {"scoring_func", "sqrtsoftplus"},
      {"num_key_value_heads", 1},
      {"num_nextn_predict_layers", 0},
      {"vocab_size", g.integer(a + "vocab_size")
                         .value_or(embedding && embedding->shape.size() == 2 ? embedding->shape[0] : 0)},
      {"hidden_size", count("embedding_length")},
      {"num_hidden_layers", layers},
      {"num_hash_layers", count("hash_layer_count")},
      {"num_attention_heads", count("attention.head_count")},
      {"head_dim", count("attention.key_length")},
      {"qk_rope_head_dim", count("rope.dimension_count")},
      {"q_lora_rank", count("attention.q_lora_rank")},
      {"o_groups", count("attention.output_group_count")},
      {"o_lora_rank", count("attention.output_lora_rank")},
      {"n_routed_experts", count("expert_count")},
      {"num_experts_per_tok", count("expert_used_count")},
      {"n_shared_experts", count("expert_shared_count")},
      {"moe_intermediate_size", count("expert_feed_forward_length")},
      {"routed_scaling_factor", decimal("expert_weights_scale")},
      {"swiglu_limit", clamps.empty() ? 0.0 : detail::shortest_decimal(clamps[0])},
      {"rms_norm_eps", decimal("attention.layer_norm_rms_epsilon")},
      {"hc_mult", count("hyper_connection.count")},
      {"hc_sinkhorn_iters", count("hyper_connection.sinkhorn_iterations")},
      {"hc_eps", decimal("hyper_connection.epsilon")},
      {"index_n_heads", count("attention.indexer.head_count")},
      {"index_head_dim", count("attention.indexer.key_length")},
      {"index_topk", count("attention.indexer.top_k")},
      {"sliding_window", count("attention.sliding_window")},
      {"max_position_embeddings", count("context_length")},
      {"rope_theta", decimal("rope.freq_base")},
      {"compress_rope_theta", decimal("attention.compress_rope_freq_base")},
      {"compress_ratios", std::move(ratios)},
      {"rope_scaling", nullptr}};
  if (g.text(a + "rope.scaling.type").value_or("none") == "yarn")
    j["rope_scaling"] = {{"type", "yarn"},
                         {"factor", decimal("rope.scaling.factor")},
                         {"original_max_position_embeddings", count("rope.scaling.original_context_length")},
                         {"beta_fast", g.real(a + "rope.scaling.yarn_beta_fast").value_or(32.0)},
                         {"beta_slow", g.real(a + "rope.scaling.yarn_beta_slow").value_or(1.0)}};
  return parse_config(g.path(), j);
}

DSV4_INLINE std::vector<imported_tensor> import_gguf(const gguf& file, const config& c) {
  return detail::gguf_importer(file, c).run();
}

DSV4_INLINE safetensors gguf_in_memory(const gguf& file, const config& c, std::size_t most) {
  safetensors_writer w;
  std::size_t capacity = 64, data = 0;
  constexpr std::size_t header_of_a_tensor = 192;  // type, shape and offsets as JSON
  for (imported_tensor& t : import_gguf(file, c)) {
    data += t.bytes();
    capacity += t.bytes() + t.name.size() + header_of_a_tensor;
    w.add(std::move(t.name), t.type, std::move(t.shape), std::move(t.make));
  }
  if (data > most)
    fail_format(file.path(), "needs " + std::to_string(data) + " bytes in memory, more than the limit of " +
                                 std::to_string(most) + ": make a checkpoint of it (dsv4 gguf import)");
  owned_bytes out{dsv4::detail::allocate<std::byte>(capacity), 0};
  w.write_to([&](const void* from, std::size_t bytes) {
    if (bytes > capacity - out.size) throw internal_error("gguf_in_memory: a longer header than expected");
    std::memcpy(out.memory.get() + out.size, from, bytes);
    out.size += bytes;
  });
  return safetensors::own(file.path(), std::move(out));
}

}  // namespace dsv4::io
