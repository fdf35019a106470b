// SPDX-License-Identifier: MIT
#pragma once
/// What another engine calls our values, as data: a JSON file of ordered rules (docs/maps/*.json).
///
///   {"schema": "v4map/1", "engine": "transformers", "numerics": "float32",
///    "rules": [{"match": "model\\.layers\\.(\\d+)\\.attn_hc\\.1", "to": "layers.$1.hc_attn.comb"}, …],
///    "ignore": ["model\\.embed_tokens"], "names": "ggml",
///    "absent": [{"site": "attn.topk_idxs", "layers": ["window", "hca"]}]}
///
/// `ignore`: whole names that are none of ours.  `names`: "ggml" ignores as well, unless a rule names them, what
/// every graph of ggml has beside its named nodes: "NAME (view)", "(reshaped)" and the like, node_7, leaf_7,
/// names that begin with "~" (ours for unnamed nodes), and uses #n of a name whose other uses have rules.
/// `absent`: sites that this engine has in no array, in all layers or in those of a kind (window, csa, hca, hash):
/// `dsv4 verify` does not miss them.
///
/// `match` is a regular expression (ECMAScript) for the WHOLE name, `to` the name of one of our sites with
/// $1 … for what the parentheses caught.  The first rule that matches decides, unless it says "also".
/// What a rule may say beside these two, in the order in which it is done:
///   occurrence  the n-th value of that name in its call (name#n; from 0); without it, every
///   axes        of the other engine, in its order: names of docs/notation.md's axes, and batch, one (a
///               size of 1 to drop).  Without it: those of the site, with or without a batch in front.
///               More sizes than axes: those of 1 in front are dropped (ggml always has four).  "token*head"
///               is a joint axis, taken apart by the site's sizes
///   permute     the other engine's axes in another order, before `axes` are read
///   slice       {"axis": NAME, "from": N, "to": N}, of a fused tensor; N: number, "end", or field of the config
///   regroup     axes after the first are counted only: [t, g, h/g·d] is [t, h, d]
///   take        "last": more rows than the call has (a whole cache): the last ones
///   optional    rows of another number, or another shape: the array is left out instead of refused
///   layout      "half": rotary channels stored evens first, then odds; "interleaved": as ours
///   invert      "rope" turns back, "hadamard" transforms back
///   scale       a factor: number, or {FIELD: POWER, …}
///   apply       "sqrt_softplus" (gate logits to scores); "picks" (entries only, to attn.topk_idxs; one that the
///               token does not see yet is an empty slot: engines fill their top-k with masked entries)
///   dtype       F32, F64, BF16 or I32 as the stored type; without it, that of the dump (F16 becomes F32)
/// @throws format_error file, rule, what was found and expected
#include <cmath>
#include <limits>
#include <map>
#include <regex>
#include <set>

#include "../../io/config_json.hpp"
#include "../../io/json_text.hpp"
#include "../../io/safetensors.hpp"
#include "../bundle/site_table.hpp"

namespace dsv4::golden {

/// A bound of a slice: a number, the end, or a field of the configuration.
struct slice_bound {
  index_t number = 0;
  std::string field;  ///< "end", or empty for a number
};

enum class map_transform : std::uint8_t { none, sqrt_softplus, picks };
enum class map_inversion : std::uint8_t { none, rope, hadamard };

struct map_rule {
  std::string match, to;
  std::regex pattern;
  std::vector<std::string> axes;
  std::vector<index_t> permute;
  std::string slice_axis;
  slice_bound slice_from, slice_to;
  std::optional<index_t> occurrence;
  bool also = false, optional = false, regroup = false, take_last = false, half_layout = false;
  double scale = 1;
  std::map<std::string, double> scale_fields;
  map_inversion invert = map_inversion::none;
  map_transform apply = map_transform::none;
  std::optional<dtype> type;
};

/// The fields of a configuration that maps may name.
std::optional<index_t> config_field(const config& c, std::string_view name);

class name_map {
 public:
  /// A map's text; `file` is for messages.
  static name_map parse(const std::filesystem::path& file, std::string_view text);
  static name_map open(const std::filesystem::path& file);
  /// `what`: a file, or the name of a map in one of the directories ("transformers").
  static name_map find(const std::string& what, const std::vector<std::filesystem::path>& directories);

  const std::filesystem::path& file() const { return file_; }
  const std::string& engine() const { return engine_; }
  const std::string& numerics() const { return numerics_; }  ///< "official", "float32", or empty
  const std::vector<map_rule>& rules() const { return rules_; }

  struct hit {
    const map_rule* rule;
    parsed_name target;
  };
  /// Our sites for a name; empty if there is none.  @throws format_error a rule gives what is no site
  std::vector<hit> look_up(const std::string& name, index_t occurrence = 0) const;
  /// Whether the map says that this name is none of ours.
  bool ignores(const std::string& name) const;
  /// Whether the engine has this site of this scope in no array.
  bool lacks(const tap_scope& scope, site id, const config& c) const;
  /// The names of all such sites of a model.
  std::set<std::string> absent_names(const config& c) const;

 private:
  // The standard library's matcher recurses over the text: names are bounded, so that the stack is.
  static constexpr std::size_t longest_name = 512, longest_pattern = 512, most_rules = 4096;
  // Plain backtracking takes 2^40 steps for (a|a)*b on forty a; libstdc++ can match in polynomial time (a
  // pattern then has no back-references).
#ifdef __GLIBCXX__
  static constexpr auto how = std::regex::ECMAScript | std::regex_constants::__polynomial;
#else
  static constexpr auto how = std::regex::ECMAScript | std::regex::optimize;
#endif

  std::regex pattern(const std::string& text) const;
  [[noreturn]] void refuse(const std::string& match, const std::string& field, const nlohmann::json& found,
                           const std::string& expected) const;

  void read(const nlohmann::json& j);

  slice_bound bound(const std::string& match, const nlohmann::json& v) const;

  map_rule rule(const nlohmann::json& j) const;

  /// A site that the engine has in no array, of the layers of these kinds; all layers if there are none.
  struct absence {
    site id;
    std::vector<std::string> kinds;
  };
  absence absent(const nlohmann::json& j) const;

  std::filesystem::path file_;
  std::string engine_, numerics_;
  std::vector<map_rule> rules_;
  std::vector<std::regex> ignore_;
  std::vector<absence> absent_;
  bool ggml_names_ = false;
};

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "name_map_impl.hpp"
#endif
