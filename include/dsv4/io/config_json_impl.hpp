// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of config_json.hpp.
#include <algorithm>
#include <bit>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include "config_json.hpp"
#include "config_transformers.hpp"
#include "json_fields.hpp"
#include "json_text.hpp"
#include "mapped_file.hpp"

namespace dsv4::io {

namespace detail {

/// Names of one field in the two forms.
struct spelling {
  std::string_view hub, inference;
};

/// The field names of one form, and the numbers both forms share.
DSV4_INLINE config read_shared_fields(const json_fields& f, bool hub) {
  const auto name = [&](spelling s) { return hub ? s.hub : s.inference; };
  config c;
  c.vocab_size = f.integer("vocab_size", 1, most_vocab);
  c.hidden_size = f.integer(name({"hidden_size", "dim"}), 1, most_width);
  c.moe_intermediate_size = f.integer(name({"moe_intermediate_size", "moe_inter_dim"}), 1, most_width);
  c.num_hidden_layers = f.integer(name({"num_hidden_layers", "n_layers"}), 1, most_layers);
  c.num_hash_layers = f.integer(name({"num_hash_layers", "n_hash_layers"}), 0, c.num_hidden_layers);
  c.num_attention_heads = f.integer(name({"num_attention_heads", "n_heads"}), 1, most_count);
  c.head_dim = f.integer("head_dim", 1, most_width);
  c.qk_rope_head_dim = f.integer(name({"qk_rope_head_dim", "rope_head_dim"}), 1, c.head_dim);
  c.q_lora_rank = f.integer("q_lora_rank", 1, most_width);
  c.o_groups = f.integer("o_groups", 1, most_count);
  c.o_lora_rank = f.integer("o_lora_rank", 1, most_width);
  c.n_routed_experts = f.integer("n_routed_experts", 1, most_count);
  f.only("n_shared_experts", 1);
  c.num_experts_per_tok =
      f.integer(name({"num_experts_per_tok", "n_activated_experts"}), 1, c.n_routed_experts);
  f.only(name({"scoring_func", "score_func"}), "sqrtsoftplus");
  c.routed_scaling_factor = f.number(name({"routed_scaling_factor", "route_scale"}), 0, most_scale);
  c.swiglu_limit = f.number("swiglu_limit", 0, most_scale);
  c.hc_mult = f.integer("hc_mult", 1, most_streams);
  c.hc_sinkhorn_iters = f.integer("hc_sinkhorn_iters", 1, most_sinkhorn);
  c.sliding_window = f.integer(name({"sliding_window", "window_size"}), 1, most_positions);
  c.rope_theta = f.number("rope_theta", 1, most_theta);
  c.compress_rope_theta = f.number("compress_rope_theta", 1, most_theta);
  c.compress_ratios = f.integers("compress_ratios", 0, most_positions);
  // The lightning indexer belongs to layers of ratio 4; without them its sizes may be absent.
  const bool csa =
      std::find(c.compress_ratios.begin(), c.compress_ratios.end(), csa_ratio) != c.compress_ratios.end();
  if (csa || f.has("index_head_dim")) {
    c.index_n_heads = f.integer("index_n_heads", 1, most_count);
    c.index_head_dim = f.integer("index_head_dim", 1, most_width);
    c.index_topk = f.integer("index_topk", 1, most_positions);
  }
  return c;
}

/// Hub form: what only it has.
DSV4_INLINE void read_hub_fields(const json_fields& f, const flat_fields& flat,
                                 const std::filesystem::path& file, problem_list& problems, config& c) {
  c.rms_norm_eps = f.number("rms_norm_eps", 0, most_eps);
  c.hc_eps = f.number("hc_eps", 0, most_eps);
  c.max_position_embeddings = f.integer("max_position_embeddings", 1, most_positions);
  c.num_nextn_predict_layers = f.integer_or("num_nextn_predict_layers", 0, most_mtp, 0);
  f.only("hidden_act", "silu");
  f.only("tie_word_embeddings", false);
  f.only("attention_bias", false);
  f.only("norm_topk_prob", true);
  f.only("topk_method", "noaux_tc");
  f.only("num_key_value_heads", 1);
  // YaRN, as `type` (what is published) or `rope_type` (what transformers writes).
  c.has_yarn = f.has("rope_scaling");
  if (!c.has_yarn) return;
  const nlohmann::json& scaling = flat.object["rope_scaling"];
  if (!scaling.is_object())
    return f.bad("field '" + flat.yarn_name + "': found " + json_fields::shown(scaling) +
                 ", expected an object or null");
  const json_fields r(file, scaling, flat.yarn_name + ".", &problems);
  if (!r.has("type") && !r.has("rope_type")) r.need("type");
  r.only("type", "yarn");
  r.only("rope_type", "yarn");
  r.only("attention_factor", 1.0);  // the amplitude of the rotation stays 1
  c.yarn.factor = r.number("factor", 1, most_scale);
  c.yarn.beta_fast = r.number_or("beta_fast", 1e-3, most_scale, 32);
  c.yarn.beta_slow = r.number_or("beta_slow", 1e-3, most_scale, 1);
  c.yarn.original_max_position_embeddings = r.integer("original_max_position_embeddings", 1, most_positions);
}

/// Inference form: what only it has, and what it leaves out.
DSV4_INLINE void read_inference_fields(const json_fields& f, config& c) {
  c.rms_norm_eps = f.number_or("norm_eps", 0, most_eps, 1e-6);
  c.hc_eps = f.number_or("hc_eps", 0, most_eps, 1e-6);
  const auto entries = static_cast<index_t>(c.compress_ratios.size());
  c.num_nextn_predict_layers = f.integer_or("n_mtp_layers", 0, most_mtp,
                                            std::clamp<index_t>(entries - c.num_hidden_layers, 0, most_mtp));
  // YaRN is on when the original length is given.
  const index_t original = f.integer_or("original_seq_len", 0, most_positions, 0);
  c.has_yarn = original > 0;
  if (c.has_yarn) {
    c.yarn.original_max_position_embeddings = original;
    c.yarn.factor = f.number("rope_factor", 1, most_scale);
    c.yarn.beta_fast = f.number_or("beta_fast", 1e-3, most_scale, 32);
    c.yarn.beta_slow = f.number_or("beta_slow", 1e-3, most_scale, 1);
  }
  if (f.has("max_seq_len") || !c.has_yarn) {
    c.max_position_embeddings = f.integer("max_seq_len", 1, most_positions);
  } else {
    const double longest = static_cast<double>(original) * c.yarn.factor;
    if (!(longest <= double(most_positions)))
      f.bad("original_seq_len * rope_factor: found " + json_fields::shown(longest) + ", expected at most " +
            std::to_string(most_positions));
    else
      c.max_position_embeddings = static_cast<index_t>(longest);
  }
}

/// Checkpoints with a DSpark drafter: its stages are counted as MTP blocks are, by compress_ratios (46 entries for 43
/// layers) and, where that has none, by the field of MTP.
DSV4_INLINE void read_dspark_fields(const json_fields& f, problem_list& problems, config& c) {
  if (!f.has("dspark_target_layer_ids") && !f.has("dspark_block_size")) return;
  dspark_config& d = c.dspark;
  d.block_size = f.integer("dspark_block_size", 1, most_count);
  d.noise_token = f.integer("dspark_noise_token_id", 0, std::max(c.vocab_size - 1, index_t{0}));
  d.markov_rank = f.integer("dspark_markov_rank", 1, most_width);
  d.target_layers = f.integers("dspark_target_layer_ids", 0, std::max(c.num_hidden_layers - 1, index_t{0}));
  if (!problems.empty()) return;
  const auto layers = static_cast<std::ptrdiff_t>(c.num_hidden_layers);
  auto& ratios = c.compress_ratios;
  const index_t entries = static_cast<index_t>(ratios.size()) - c.num_hidden_layers;
  d.stages = entries > 0 ? entries : c.num_nextn_predict_layers;
  c.num_nextn_predict_layers = 0;
  if (d.target_layers.empty()) problems.bad("field 'dspark_target_layer_ids': found [], expected layers");
  if (d.stages < 1 || d.stages > most_mtp)
    problems.bad("DSpark: found " + std::to_string(d.stages) +
                 " stages (entries of compress_ratios beyond the layers, or num_nextn_predict_layers), "
                 "expected 1 to " +
                 std::to_string(most_mtp));
  if (entries <= 0) return;
  if (std::any_of(ratios.begin() + layers, ratios.end(), [](index_t r) { return r != 0; }))
    problems.bad(
        "field 'compress_ratios': a stage of the DSpark drafter with a ratio, expected 0 (window only)");
  ratios.resize(usize(c.num_hidden_layers));
}

/// Relations between fields, each of which is good by itself.
DSV4_INLINE void check_config(problem_list& problems, config& c) {
  const auto require = [&](bool ok, const std::string& what) {
    if (!ok) problems.bad(what);
  };
  const auto n = [](index_t v) { return std::to_string(v); };
  const index_t entries = static_cast<index_t>(c.compress_ratios.size());
  const index_t blocks = c.num_hidden_layers + c.num_nextn_predict_layers;
  require(entries == c.num_hidden_layers || entries == blocks,
          "field 'compress_ratios': found " + n(entries) + " entries, expected one per layer (" +
              n(c.num_hidden_layers) + ") or one per layer and MTP block (" + n(blocks) + ")");
  // An MTP block without an entry sees the window only.
  c.compress_ratios.resize(usize(blocks), 0);
  require(c.num_attention_heads * c.head_dim % c.o_groups == 0,
          "field 'o_groups': found " + n(c.o_groups) +
              ", expected a divisor of heads * head_dim = " + n(c.num_attention_heads * c.head_dim));
  require(c.qk_rope_head_dim % 2 == 0,
          "rotary width (qk_rope_head_dim): found " + n(c.qk_rope_head_dim) + ", expected an even number");
  if (std::find(c.compress_ratios.begin(), c.compress_ratios.end(), csa_ratio) != c.compress_ratios.end()) {
    require(std::has_single_bit(static_cast<std::uint64_t>(c.index_head_dim)),
            "field 'index_head_dim': found " + n(c.index_head_dim) +
                ", expected a power of two (Hadamard transform)");
    require(c.qk_rope_head_dim <= c.index_head_dim, "field 'index_head_dim': found " + n(c.index_head_dim) +
                                                        ", expected at least the rotary width " +
                                                        n(c.qk_rope_head_dim));
  }
  require(!c.has_yarn || c.yarn.beta_fast >= c.yarn.beta_slow, "YaRN: found beta_fast below beta_slow");
}

/// Refuse other architectures by name.
DSV4_INLINE void check_model_type(const json_fields& f, const std::filesystem::path& file) {
  if (const nlohmann::json* type = f.find("model_type")) {
    if (*type == "deepseek_v41")
      fail_unsupported(file,
                       "DeepSeek-V4.1 (model_type \"deepseek_v41\") is another architecture; this library "
                       "implements deepseek_v4");
    if (*type != "deepseek_v4")
      fail_unsupported(file, "model_type: found " + json_fields::shown(*type) +
                                 ", this library implements \"deepseek_v4\"");
  } else if (f.has("architectures")) {
    f.only("architectures", nlohmann::json::array({"DeepseekV4ForCausalLM"}));
  }
}

}  // namespace detail

DSV4_INLINE config parse_config(const std::filesystem::path& file, const nlohmann::json& object) {
  if (!object.is_object())
    fail_format(file, "found " + detail::json_fields::shown(object) + ", expected an object of fields");
  const detail::json_fields first(file, object);
  detail::check_model_type(first, file);
  const bool hub = first.has("hidden_size");
  if (!hub && !first.has("dim"))
    fail_format(file, "neither 'hidden_size' (the hub's form) nor 'dim' (the inference form) is there");
  detail::problem_list problems(file);
  const detail::flat_fields flat =
      hub ? detail::transformers_form(file, object, problems).run() : detail::flat_fields{object};
  const detail::json_fields f(file, flat.object, {}, &problems);
  config c = detail::read_shared_fields(f, hub);
  if (hub) {
    detail::read_hub_fields(f, flat, file, problems, c);
  } else {
    detail::read_inference_fields(f, c);
  }
  detail::read_dspark_fields(f, problems, c);
  if (problems.empty()) detail::check_config(problems, c);
  problems.throw_if_any();
  return c;
}

DSV4_INLINE std::filesystem::path find_config(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code none;
  if (!fs::is_directory(path, none)) return path;
  for (const char* candidate : {"config.json", "inference/config.json"})
    if (fs::exists(path / candidate, none)) return path / candidate;
  fail_format(path, "no config.json and no inference/config.json in this directory");
}

DSV4_INLINE config parse_config_text(const std::filesystem::path& file, std::string_view text) {
  constexpr std::size_t most_bytes = std::size_t{1} << 24;
  if (text.size() > most_bytes)
    fail_format(file, "found " + std::to_string(text.size()) + " bytes, expected a configuration below " +
                          std::to_string(most_bytes));
  return parse_config(file, parse_json(file, text));
}

DSV4_INLINE config read_config(const std::filesystem::path& path) {
  const mapped_file file(find_config(path));
  return parse_config_text(file.path(), file.text());
}

}  // namespace dsv4::io
