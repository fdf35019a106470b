// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of name_map.hpp.
#include "../../core/config_macros.hpp"
#include "name_map.hpp"

namespace dsv4::golden {

DSV4_INLINE std::optional<index_t> config_field(const config& c, std::string_view name) {
  using pair = std::pair<std::string_view, index_t>;
  const pair fields[] = {{"hidden_size", c.hidden_size},
                         {"num_attention_heads", c.num_attention_heads},
                         {"head_dim", c.head_dim},
                         {"qk_rope_head_dim", c.qk_rope_head_dim},
                         {"q_lora_rank", c.q_lora_rank},
                         {"o_groups", c.o_groups},
                         {"o_lora_rank", c.o_lora_rank},
                         {"n_routed_experts", c.n_routed_experts},
                         {"index_head_dim", c.index_head_dim},
                         {"index_n_heads", c.index_n_heads},
                         {"index_topk", c.index_topk},
                         {"hc_mult", c.hc_mult},
                         {"sliding_window", c.sliding_window},
                         {"num_experts_per_tok", c.num_experts_per_tok},
                         {"vocab_size", c.vocab_size},
                         {"num_hidden_layers", c.num_hidden_layers}};
  for (const auto& [field, value] : fields)
    if (field == name) return value;
  return std::nullopt;
}

DSV4_INLINE name_map name_map::parse(const std::filesystem::path& file, std::string_view text) {
  name_map m;
  m.file_ = file;
  try {
    // Nesting is bounded: a map is a list of flat objects.
    constexpr int most_depth = 8;
    m.read(io::parse_json(file, text, {.most_depth = most_depth}));
  } catch (const nlohmann::json::exception& e) {
    io::fail_format(file, std::string("is not a v4map/1: ") + e.what());
  }
  return m;
}

DSV4_INLINE name_map name_map::open(const std::filesystem::path& file) {
  constexpr std::size_t most = std::size_t{1} << 22;
  const io::mapped_file text(file);
  if (text.size() > most)
    io::fail_format(file, "found " + std::to_string(text.size()) + " bytes, expected a map below " +
                              std::to_string(most));
  return parse(file, text.text());
}

DSV4_INLINE name_map name_map::find(const std::string& what,
                                    const std::vector<std::filesystem::path>& directories) {
  std::error_code none;
  const bool plain =
      !what.empty() && what.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-") == what.npos;
  if (plain)
    for (const auto& dir : directories)
      if (const auto file = dir / (what + ".json"); std::filesystem::is_regular_file(file, none))
        return open(file);
  if (std::filesystem::is_regular_file(what, none)) return open(what);
  std::string known;
  for (const auto& dir : directories)
    for (const auto& e : std::filesystem::directory_iterator(dir, none))
      if (e.path().extension() == ".json") known += (known.empty() ? "" : ", ") + e.path().stem().string();
  throw format_error("no map " + io::in_quotes(what) + ": neither a file nor one of: " +
                     (known.empty() ? "none found (set DSV4_MAPS)" : known));
}

DSV4_INLINE std::vector<name_map::hit> name_map::look_up(const std::string& name, index_t occurrence) const {
  std::vector<hit> out;
  if (name.size() > longest_name) return out;
  std::smatch found;
  for (const map_rule& r : rules_) {
    if (r.occurrence && *r.occurrence != occurrence) continue;
    if (!std::regex_match(name, found, r.pattern)) continue;
    const std::string to = found.format(r.to);
    const auto target = parse_name(to);
    if (!target)
      io::fail_format(file_, "rule " + io::in_quotes(r.match) + " makes " + io::in_quotes(to) + " of " +
                                 io::in_quotes(name) + ", which is no site");
    out.push_back({&r, *target});
    if (!r.also) break;
  }
  return out;
}

namespace detail {

/// What a graph of ggml has beside its named nodes, by its name alone.
inline bool is_derived_in_ggml(std::string_view name) {
  if (name.starts_with('~')) return true;
  for (const std::string_view front : {"node_", "leaf_"})
    if (name.starts_with(front) && name.find_first_not_of("0123456789", front.size()) == name.npos)
      return true;
  const std::size_t open = name.rfind(" (");
  if (open == name.npos || !name.ends_with(')')) return false;
  const std::string_view what = name.substr(open + 2, name.size() - open - 3);
  for (const std::string_view each : {"view", "reshaped", "permuted", "transposed", "cont", "sort", "copy"})
    if (what == each) return true;
  return what.starts_with("copy of ");
}

}  // namespace detail

DSV4_INLINE bool name_map::ignores(const std::string& name) const {
  if (name.size() > longest_name) return false;
  const auto matches = [&](const std::regex& r) { return std::regex_match(name, r); };
  if (std::any_of(ignore_.begin(), ignore_.end(), matches)) return true;
  return ggml_names_ &&
         (detail::is_derived_in_ggml(name) ||
          std::any_of(rules_.begin(), rules_.end(), [&](const map_rule& r) { return matches(r.pattern); }));
}

DSV4_INLINE bool name_map::lacks(const tap_scope& scope, site id, const config& c) const {
  const bool layer = scope.where == tap_scope::part::layer;
  const auto is = [&](const std::string& kind) {
    if (kind == "hash") return layer && c.is_hash_layer(scope.number);
    const attention_kind k = kind_of_ratio(ratio_of(scope, c));
    return !is_head_site(id) && k == (kind == "window" ? attention_kind::window
                                      : kind == "csa"  ? attention_kind::csa
                                                       : attention_kind::hca);
  };
  return std::any_of(absent_.begin(), absent_.end(), [&](const absence& a) {
    return a.id == id && (a.kinds.empty() || std::any_of(a.kinds.begin(), a.kinds.end(), is));
  });
}

DSV4_INLINE std::set<std::string> name_map::absent_names(const config& c) const {
  std::set<std::string> out;
  const auto scope = [&](const tap_scope& s, bool head) {
    for (const absence& a : absent_)
      if (is_head_site(a.id) == head && lacks(s, a.id, c))
        out.insert(s.prefix() + std::string(info(a.id).name));
  };
  using part = tap_scope::part;
  for (index_t l = 0; l < c.num_hidden_layers; ++l) scope({part::layer, l}, false);
  for (index_t l = 0; l < c.num_nextn_predict_layers; ++l)
    scope({part::mtp, l}, false), scope({part::mtp_head, l}, true);
  scope({part::head, 0}, true);
  return out;
}

DSV4_INLINE std::regex name_map::pattern(const std::string& text) const {
  if (text.size() > longest_pattern)
    io::fail_format(file_, "a pattern of " + std::to_string(text.size()) + " characters");
  try {
    return std::regex(text, how);
  } catch (const std::regex_error& e) {
    io::fail_format(file_, "rule " + io::in_quotes(text) + ": not a regular expression: " + e.what());
  }
}

DSV4_INLINE void name_map::refuse(const std::string& match, const std::string& field,
                                  const nlohmann::json& found, const std::string& expected) const {
  io::fail_format(file_, "rule " + io::in_quotes(match) + ", field " + io::in_quotes(field) + ": found " +
                             io::in_quotes(found.dump()) + ", expected " + expected);
}

DSV4_INLINE void name_map::read(const nlohmann::json& j) {
  if (!j.is_object() || j.value("schema", "") != "v4map/1")
    io::fail_format(file_, "field 'schema': expected \"v4map/1\"");
  engine_ = j.at("engine").get<std::string>();
  numerics_ = j.value("numerics", "");
  if (!numerics_.empty() && numerics_ != "official" && numerics_ != "float32")
    io::fail_format(file_,
                    "field 'numerics': found " + io::in_quotes(numerics_) + ", expected official or float32");
  for (const auto& [key, value] : j.items())
    if (key != "schema" && key != "engine" && key != "numerics" && key != "rules" && key != "ignore" &&
        key != "note" && key != "names" && key != "absent")
      io::fail_format(file_, "unknown field " + io::in_quotes(key));
  if (!j.at("rules").is_array() || j.at("rules").size() > most_rules)
    io::fail_format(file_, "field 'rules': expected a list");
  for (const auto& r : j.at("rules")) rules_.push_back(rule(r));
  for (const auto& r : j.value("ignore", nlohmann::json::array()))
    ignore_.push_back(pattern(r.get<std::string>()));
  if (j.contains("names")) {
    if (j.at("names") != "ggml") io::fail_format(file_, "field 'names': expected \"ggml\"");
    ggml_names_ = true;
  }
  for (const auto& a : j.value("absent", nlohmann::json::array())) {
    if (absent_.size() >= most_rules) io::fail_format(file_, "field 'absent': too long a list");
    absent_.push_back(absent(a));
  }
}

DSV4_INLINE name_map::absence name_map::absent(const nlohmann::json& j) const {
  // A site's name with its scope left out; those of the head begin with "head.".
  std::string name = j.at("site").get<std::string>();
  const auto id = site_of(name.starts_with("head.") ? name.substr(5) : name);
  if (!id || is_head_site(*id) != name.starts_with("head."))
    io::fail_format(file_, "field 'absent': " + io::in_quotes(name) + " is no site");
  absence out{*id, {}};
  for (const auto& [key, v] : j.items()) {
    if (key == "site" || key == "note") continue;
    if (key != "layers") io::fail_format(file_, "field 'absent': unknown field " + io::in_quotes(key));
    for (const auto& kind : v) {
      if (kind != "window" && kind != "csa" && kind != "hca" && kind != "hash")
        io::fail_format(file_, "field 'absent', layers: found " + io::in_quotes(kind.dump()) +
                                   ", expected window, csa, hca or hash");
      out.kinds.push_back(kind.get<std::string>());
    }
  }
  return out;
}

DSV4_INLINE slice_bound name_map::bound(const std::string& match, const nlohmann::json& v) const {
  if (v.is_number_unsigned()) return {v.get<index_t>(), {}};
  if (v.is_string() && (v == "end" || config_field({}, v.get<std::string>())))
    return {0, v.get<std::string>()};
  refuse(match, "slice", v, "a number, \"end\", or a size of the configuration");
}

DSV4_INLINE map_rule name_map::rule(const nlohmann::json& j) const {
  map_rule r;
  r.match = j.at("match").get<std::string>();
  r.to = j.at("to").get<std::string>();
  r.pattern = pattern(r.match);
  const auto one_of = [&](const std::string& key, const nlohmann::json& v,
                          std::initializer_list<const char*> words) {
    int i = 0;
    std::string all;
    for (const char* w : words) {
      if (v == w) return i;
      ++i, all += (all.empty() ? "" : ", ") + std::string(w);
    }
    refuse(r.match, key, v, all);
  };
  for (const auto& [key, v] : j.items()) {
    if (key == "match" || key == "to" || key == "note") continue;
    if (key == "axes") {
      r.axes = v.get<std::vector<std::string>>();
    } else if (key == "permute") {
      r.permute = v.get<std::vector<index_t>>();
      std::vector<index_t> sorted = r.permute;
      std::sort(sorted.begin(), sorted.end());
      for (std::size_t i = 0; i < sorted.size(); ++i)
        if (sorted[i] != static_cast<index_t>(i)) refuse(r.match, key, v, "every axis once");
    } else if (key == "slice") {
      r.slice_axis = v.at("axis").get<std::string>();
      r.slice_from = bound(r.match, v.at("from")), r.slice_to = bound(r.match, v.at("to"));
    } else if (key == "occurrence") {
      if (!v.is_number_unsigned()) refuse(r.match, key, v, "a number from 0");
      r.occurrence = v.get<index_t>();
    } else if (key == "also") {
      r.also = v.get<bool>();
    } else if (key == "optional") {
      r.optional = v.get<bool>();
    } else if (key == "regroup") {
      r.regroup = v.get<bool>();
    } else if (key == "take") {
      one_of(key, v, {"last"}), r.take_last = true;
    } else if (key == "layout") {
      r.half_layout = one_of(key, v, {"interleaved", "half"}) == 1;
    } else if (key == "invert") {
      r.invert = static_cast<map_inversion>(1 + one_of(key, v, {"rope", "hadamard"}));
    } else if (key == "apply") {
      r.apply = static_cast<map_transform>(1 + one_of(key, v, {"sqrt_softplus", "picks"}));
    } else if (key == "scale" && v.is_number()) {
      r.scale = v.get<double>();
    } else if (key == "scale") {
      r.scale_fields = v.get<std::map<std::string, double>>();
      for (const auto& [field, power] : r.scale_fields)
        if (!config_field({}, field)) refuse(r.match, key, v, "sizes of the configuration with their powers");
    } else if (key == "dtype") {
      constexpr dtype types[] = {dtype::f32, dtype::f64, dtype::bf16, dtype::i32};
      r.type = types[one_of(key, v, {"F32", "F64", "BF16", "I32"})];
    } else {
      refuse(r.match, key, v, "a field of v4map/1");
    }
  }
  return r;
}

}  // namespace dsv4::golden
