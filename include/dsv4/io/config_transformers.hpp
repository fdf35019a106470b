// SPDX-License-Identifier: MIT
#pragma once
/// The config.json that current transformers writes, in the flat fields of the published files.
/// Saving a model there rewrites its configuration: lists of layer kinds stand where ratios and counts stood.
///
///   published              transformers
///   compress_ratios        layer_types (one name per layer) with compress_rates (name -> ratio)
///   num_hash_layers        mlp_layer_types: "hash_moe" as often as that, then "moe"
///   qk_rope_head_dim       partial_rotary_factor * head_dim, rounded down
///   rope_theta             rope_parameters.main.rope_theta
///   compress_rope_theta    rope_parameters.compress.rope_theta
///   rope_scaling           rope_parameters.compress, when its rope_type is "yarn"
///
/// A file may hold both; it is refused when they contradict each other.  There is no oracle but the files that
/// transformers 5.24 writes of the published ones (reference_tests/data/configs).
#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "../core/config.hpp"
#include "json_fields.hpp"

namespace dsv4::io::detail {

/// Flat fields, and where YaRN's came from, for messages.
struct flat_fields {
  nlohmann::json object;
  std::string yarn_name = "rope_scaling";
};

class transformers_form {
 public:
  transformers_form(const std::filesystem::path& file, const nlohmann::json& object, problem_list& problems)
      : file_(file), in_(file, object, {}, &problems), problems_(problems), out_{object} {}

  flat_fields run() {
    attention_kinds();
    expert_kinds();
    if (const nlohmann::json* part = in_.find("partial_rotary_factor"))
      rotary_width(*part, "partial_rotary_factor");
    rotation();
    in_.only("mlp_bias", false);
    return std::move(out_);
  }

 private:
  using json = nlohmann::json;
  static std::string shown(const json& v) { return json_fields::shown(v); }

  /// The flat field `name` is `value`, as `source` says; it may be there already, but not with another value.
  void derive(const char* name, const json& value, const std::string& source) {
    const json* flat = in_.find(name);
    if (flat && *flat != value)
      problems_.bad("fields '" + std::string(name) + "' and '" + source +
                    "' contradict each other: " + shown(*flat) + " and " + shown(value));
    out_.object[name] = value;
  }

  /// A list of one name per layer, or nothing.
  std::vector<std::string> names_of_layers(const char* name) {
    const json* list = in_.find(name);
    std::vector<std::string> out;
    if (!list) return out;
    if (list->is_array())
      for (const json& each : *list)
        if (each.is_string()) out.push_back(each.get<std::string>());
    if (!list->is_array() || out.size() != list->size()) {
      problems_.bad("field '" + std::string(name) + "': found " + shown(*list) +
                    ", expected a list of names");
      return {};
    }
    const json* layers = in_.find("num_hidden_layers");
    if (layers && *layers != out.size()) {
      problems_.bad("field '" + std::string(name) + "': found " + std::to_string(out.size()) +
                    " entries, expected one per layer (" + shown(*layers) + ")");
      return {};
    }
    return out;
  }

  /// Ratio of a kind of layer: of compress_rates, of the older field of its own, or what transformers assumes.
  index_t rate(const char* kind, const char* older, index_t assumed) {
    const json* rates = in_.find("compress_rates");
    if (rates && !rates->is_object()) {
      problems_.bad("field 'compress_rates': found " + shown(*rates) + ", expected an object");
      return assumed;
    }
    constexpr index_t most = index_t{1} << 31;
    if (in_.has(older)) return in_.integer(older, 1, most);
    return rates
               ? json_fields(file_, *rates, "compress_rates.", &problems_).integer_or(kind, 1, most, assumed)
               : assumed;
  }

  void attention_kinds() {
    static constexpr const char *window = "sliding_attention", *csa = "compressed_sparse_attention",
                                *hca = "heavily_compressed_attention";
    const std::vector<std::string> kinds = names_of_layers("layer_types");
    if (kinds.empty()) return;
    constexpr index_t assumed_hca = 128;
    const index_t m = rate(csa, "compress_rate_csa", csa_ratio),
                  far = rate(hca, "compress_rate_hca", assumed_hca);
    if (m != csa_ratio)
      problems_.not_implemented("field 'compress_rates." + std::string(csa) + "': found " +
                                std::to_string(m) + ", only " + std::to_string(csa_ratio) +
                                " is implemented");
    if (far == csa_ratio)
      problems_.not_implemented("field 'compress_rates." + std::string(hca) + "': found " +
                                std::to_string(far) + ", which is the ratio of CSA layers");
    json ratios = json::array();
    for (const std::string& kind : kinds) {
      if (kind != window && kind != csa && kind != hca)
        return problems_.not_implemented("field 'layer_types'[" + std::to_string(ratios.size()) +
                                         "]: found " + in_quotes(kind) + ", implemented are " + window +
                                         ", " + csa + " and " + hca);
      ratios.push_back(kind == window ? 0 : kind == csa ? m : far);
    }
    // The flat list may go on with the MTP blocks, which transformers does not have.
    const json* flat = in_.find("compress_ratios");
    if (flat && flat->is_array() && flat->size() > ratios.size())
      ratios.insert(ratios.end(), flat->begin() + static_cast<std::ptrdiff_t>(ratios.size()), flat->end());
    derive("compress_ratios", ratios, "layer_types");
  }

  void expert_kinds() {
    const std::vector<std::string> kinds = names_of_layers("mlp_layer_types");
    if (kinds.empty()) return;
    index_t hash = 0, at = 0;
    for (const std::string& kind : kinds) {
      const bool is_hash = kind == "hash_moe";
      if (!is_hash && kind != "moe")
        return problems_.not_implemented("field 'mlp_layer_types'[" + std::to_string(at) + "]: found " +
                                         in_quotes(kind) + ", implemented are hash_moe and moe");
      if (is_hash && hash != at)
        return problems_.not_implemented(
            "field 'mlp_layer_types'[" + std::to_string(at) +
            "]: found 'hash_moe' after 'moe', only leading hash layers are implemented");
      hash += is_hash;
      ++at;
    }
    derive("num_hash_layers", hash, "mlp_layer_types");
  }

  void rotary_width(const json& part, const std::string& name) {
    const json* width = in_.find("head_dim");
    if (!width || !width->is_number_integer()) return;  // said elsewhere
    const double factor = part.is_number() ? part.get<double>() : std::nan("");
    if (!(0 < factor && factor <= 1))
      return problems_.bad("field '" + name + "': found " + shown(part) +
                           ", expected a number above 0, at most 1");
    derive("qk_rope_head_dim", static_cast<index_t>(std::floor(width->get<double>() * factor)), name);
  }

  void rotation() {
    const json* all = in_.find("rope_parameters");
    if (!all) return;
    if (!all->is_object())
      return problems_.bad("field 'rope_parameters': found " + shown(*all) + ", expected an object");
    const auto nested = [&](const char* name) {
      const auto at = all->find(name);
      return at != all->end() && at->is_object() ? &*at : nullptr;
    };
    const json *main = nested("main"), *compress = nested("compress");
    if (!main && !compress)
      return yarn(*all, "rope_parameters", false);  // the flat rope_scaling under its new name
    if (!main || !compress)
      return problems_.bad("field 'rope_parameters': found " + shown(*all) +
                           ", expected the objects 'main' and 'compress'");
    json_fields(file_, *main, "rope_parameters.main.", &problems_).only("rope_type", "default");
    const auto each = [&](const json& from, const std::string& name, const char* theta) {
      if (const auto at = from.find("rope_theta"); at != from.end()) derive(theta, *at, name + ".rope_theta");
      if (const auto at = from.find("partial_rotary_factor"); at != from.end())
        rotary_width(*at, name + ".partial_rotary_factor");
    };
    each(*main, "rope_parameters.main", "rope_theta");
    each(*compress, "rope_parameters.compress", "compress_rope_theta");
    yarn(*compress, "rope_parameters.compress", true);
  }

  /// nested: taken by transformers as it is, so that an absent attention_factor means 0.1 ln(factor) + 1 and not 1.
  void yarn(const json& from, const std::string& name, bool nested) {
    const json_fields f(file_, from, name + ".", &problems_);
    const json* type = f.find("rope_type") ? f.find("rope_type") : f.find("type");
    const bool none = !type || *type == "default";
    f.only("truncate", true);
    if (!none && nested && !f.has("attention_factor"))
      problems_.not_implemented("field '" + name +
                                ".attention_factor' is absent, which means 0.1 ln(factor) + 1; " +
                                "only 1.0 is implemented: write it down if the model was trained with it");
    json scaling;
    if (!none)
      for (const char* field : {"rope_type", "type", "factor", "beta_fast", "beta_slow",
                                "original_max_position_embeddings", "attention_factor"})
        if (const json* v = f.find(field)) scaling[field] = *v;
    const json* flat = in_.find("rope_scaling");
    if (flat && flat->is_object())
      for (const char* field : {"factor", "beta_fast", "beta_slow", "original_max_position_embeddings"}) {
        const json mine = none ? json() : scaling.value(field, json()), other = flat->value(field, json());
        if (none || (!mine.is_null() && !other.is_null() && mine != other))
          return problems_.bad("fields 'rope_scaling' and '" + name +
                               "' contradict each other: " + shown(*flat) + " and " + shown(from));
      }
    out_.object["rope_scaling"] = scaling;
    out_.yarn_name = name;
  }

  const std::filesystem::path& file_;
  json_fields in_;
  problem_list& problems_;
  flat_fields out_;
};

}  // namespace dsv4::io::detail
