// SPDX-License-Identifier: MIT
#pragma once
/// config.json as a `config`: the hub's form (hidden_size, ...) and the form of the released inference
/// code (dim, ...), told apart by their fields.
/// Every size is checked here, once: positive, below a sane bound, and divisible where the model divides.
/// What would make this another model (another model_type, scoring function, activation, ...) is refused
/// by name instead of being read as if it were absent.
/// @throws format_error a field is missing, of the wrong type, or impossible: file, field, expected, found
/// @throws unsupported  a valid file that describes another architecture: the feature's name
///
/// Absent fields of the inference form: norm_eps and hc_eps 1e-6; MTP blocks = entries of compress_ratios
/// beyond the layers; maximum position = max_seq_len, else original_seq_len * rope_factor.
#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "../core/config.hpp"
#include "mapped_file.hpp"

namespace dsv4::io {

namespace detail {

/// Typed, range-checked access to the fields of one JSON object.
class json_fields {
 public:
  json_fields(const std::filesystem::path& file, const nlohmann::json& object, std::string prefix = {})
      : file_(file), object_(object), prefix_(std::move(prefix)) {}

  /// Null and absent are the same.
  const nlohmann::json* find(std::string_view name) const {
    const auto at = object_.find(name);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  const nlohmann::json& need(std::string_view name) const {
    const nlohmann::json* v = find(name);
    if (!v) fail_format(file_, "field " + full(name) + " is missing");
    return *v;
  }

  index_t integer(std::string_view name, index_t low, index_t high) const {
    return as_integer(need(name), full(name), low, high);
  }
  index_t integer_or(std::string_view name, index_t low, index_t high, index_t absent) const {
    return has(name) ? integer(name, low, high) : absent;
  }
  double number(std::string_view name, double low, double high) const {
    const nlohmann::json& v = need(name);
    const double x = v.is_number() ? v.get<double>() : std::nan("");
    if (!(low <= x && x <= high))
      fail_format(file_, "field " + full(name) + ": found " + shown(v) + ", expected a number from " +
                             shown(low) + " to " + shown(high));
    return x;
  }
  double number_or(std::string_view name, double low, double high, double absent) const {
    return has(name) ? number(name, low, high) : absent;
  }
  std::vector<index_t> integers(std::string_view name, index_t low, index_t high) const {
    const nlohmann::json& v = need(name);
    if (!v.is_array())
      fail_format(file_, "field " + full(name) + ": found " + shown(v) + ", expected a list");
    std::vector<index_t> out;
    for (const auto& x : v)
      out.push_back(as_integer(x, full(name) + "[" + std::to_string(out.size()) + "]", low, high));
    return out;
  }
  /// A field that, when present, must have the one value this library implements.
  void only(std::string_view name, const nlohmann::json& implemented) const {
    const nlohmann::json* v = find(name);
    if (v && *v != implemented)
      fail_unsupported(file_, "field " + full(name) + ": found " + shown(*v) + ", only " +
                                  shown(implemented) + " is implemented");
  }

  std::string full(std::string_view name) const { return in_quotes(prefix_ + std::string(name)); }
  static std::string shown(const nlohmann::json& v) {
    using nlohmann::json;
    const std::string s = v.dump(-1, ' ', true, json::error_handler_t::replace);
    return s.size() <= 80 ? s : s.substr(0, 80) + "...";
  }

 private:
  index_t as_integer(const nlohmann::json& v, const std::string& name, index_t low, index_t high) const {
    const bool fits =
        v.is_number_integer() && !(v.is_number_unsigned() && v.get<std::uint64_t>() > std::uint64_t(high));
    const index_t n = fits ? v.get<index_t>() : 0;
    if (!fits || n < low || n > high)
      fail_format(file_, "field " + name + ": found " + shown(v) + ", expected an integer from " +
                             std::to_string(low) + " to " + std::to_string(high));
    return n;
  }

  const std::filesystem::path& file_;
  const nlohmann::json& object_;
  std::string prefix_;
};

// Upper bounds: far above any model, far below where a product of two of them overflows.
inline constexpr index_t most_width = index_t{1} << 20;  // any width of a vector
inline constexpr index_t most_count = index_t{1} << 16;  // heads, experts, groups
inline constexpr index_t most_layers = 4096;
inline constexpr index_t most_vocab = index_t{1} << 24;
inline constexpr index_t most_positions = index_t{1} << 31;  // positions stay exact in every 32-bit id
inline constexpr index_t most_streams = 16, most_mtp = 64, most_sinkhorn = 1000;
inline constexpr double most_theta = 1e12, most_eps = 0.1, most_scale = 1e6;

/// Names of one field in the two forms.
struct spelling {
  std::string_view hub, inference;
};

/// The field names of one form, and the numbers both forms share.
inline config read_shared_fields(const json_fields& f, bool hub) {
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
inline void read_hub_fields(const json_fields& f, const nlohmann::json& object,
                            const std::filesystem::path& file, config& c) {
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
  if (f.has("rope_parameters"))
    fail_unsupported(
        file, "field 'rope_parameters' (nested rotary parameters): give a flat 'rope_scaling' instead");
  // YaRN, as `type` (what is published) or `rope_type` (what transformers writes).
  c.has_yarn = f.has("rope_scaling");
  if (!c.has_yarn) return;
  if (!object["rope_scaling"].is_object())
    fail_format(file, "field 'rope_scaling': found " + json_fields::shown(object["rope_scaling"]) +
                          ", expected an object or null");
  const json_fields r(file, object["rope_scaling"], "rope_scaling.");
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
inline void read_inference_fields(const json_fields& f, const std::filesystem::path& file, config& c) {
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
    if (longest > double(most_positions))
      fail_format(file, "original_seq_len * rope_factor: found " + json_fields::shown(longest) +
                            ", expected at most " + std::to_string(most_positions));
    c.max_position_embeddings = static_cast<index_t>(longest);
  }
}

/// Relations between fields.
inline void check_config(const std::filesystem::path& file, config& c) {
  const auto require = [&](bool ok, const std::string& what) {
    if (!ok) fail_format(file, what);
  };
  const auto n = [](index_t v) { return std::to_string(v); };
  const index_t entries = static_cast<index_t>(c.compress_ratios.size());
  const index_t blocks = c.num_hidden_layers + c.num_nextn_predict_layers;
  require(entries == c.num_hidden_layers || entries == blocks,
          "field 'compress_ratios': found " + n(entries) + " entries, expected one per layer (" +
              n(c.num_hidden_layers) + ") or one per layer and MTP block (" + n(blocks) + ")");
  c.compress_ratios.resize(static_cast<std::size_t>(blocks),
                           0);  // an MTP block without an entry sees the window only
  require(c.num_attention_heads * c.head_dim % c.o_groups == 0,
          "field 'o_groups': found " + n(c.o_groups) +
              ", expected a divisor of heads * head_dim = " + n(c.num_attention_heads * c.head_dim));
  require(c.qk_rope_head_dim % 2 == 0,
          "rotary width (qk_rope_head_dim): found " + n(c.qk_rope_head_dim) + ", expected an even number");
  for (index_t ratio : c.compress_ratios) {
    if (kind_of_ratio(ratio) != attention_kind::csa) continue;
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
inline void check_model_type(const json_fields& f, const std::filesystem::path& file) {
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

/// The configuration in a parsed JSON document; `file` is for the messages.
inline config parse_config(const std::filesystem::path& file, const nlohmann::json& object) {
  if (!object.is_object())
    fail_format(file, "found " + detail::json_fields::shown(object) + ", expected an object of fields");
  const detail::json_fields f(file, object);
  detail::check_model_type(f, file);
  const bool hub = f.has("hidden_size");
  if (!hub && !f.has("dim"))
    fail_format(file, "neither 'hidden_size' (the hub's form) nor 'dim' (the inference form) is there");
  config c = detail::read_shared_fields(f, hub);
  if (hub) {
    detail::read_hub_fields(f, object, file, c);
  } else {
    detail::read_inference_fields(f, file, c);
  }
  detail::check_config(file, c);
  return c;
}

/// The configuration file of `path`: the file itself, or DIR/config.json, or DIR/inference/config.json.
inline std::filesystem::path find_config(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code none;
  if (!fs::is_directory(path, none)) return path;
  for (const char* candidate : {"config.json", "inference/config.json"})
    if (fs::exists(path / candidate, none)) return path / candidate;
  fail_format(path, "no config.json and no inference/config.json in this directory");
}

/// Parse and check a configuration's text; `file` is for the messages.  @throws format_error, unsupported
inline config parse_config_text(const std::filesystem::path& file, std::string_view text) {
  constexpr std::size_t most_bytes = std::size_t{1} << 24;
  if (text.size() > most_bytes)
    fail_format(file, "found " + std::to_string(text.size()) + " bytes, expected a configuration below " +
                          std::to_string(most_bytes));
  // Nesting is bounded, so that no recursion over the document can exhaust the stack.
  constexpr int most_depth = 32;
  const auto shallow = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > most_depth)
      fail_format(file, "is nested more than " + std::to_string(most_depth) + " levels deep");
    return true;
  };
  try {
    return parse_config(file, nlohmann::json::parse(text, shallow));
  } catch (const nlohmann::json::parse_error& e) {
    fail_format(file, "is not valid JSON, near byte " + std::to_string(e.byte));
  } catch (const nlohmann::json::exception&) {
    fail_format(file, "holds a number beyond the range of double");
  }
}

/// Read and check a configuration.  @throws format_error, unsupported
inline config read_config(const std::filesystem::path& path) {
  const mapped_file file(find_config(path));
  return parse_config_text(file.path(), file.text());
}

}  // namespace dsv4::io
