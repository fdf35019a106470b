// SPDX-License-Identifier: MIT
#pragma once
/// What is known of every site beyond its name (core/tap.hpp): how its value may be judged, which values
/// it is computed from, and where the released code computes it.  One row per site, in the same order.
///
/// Dependencies come in three kinds:
///   deps      sites of the same scope and the same call
///   streams   the streams that enter the scope: the `out` of the layer below (layer 0: the embedding, no
///             site), for the head that of the last layer, for mtp.0 that of the last layer in an EARLIER call
///   state     sites of the same scope whose values of earlier calls of the sequence count too: window
///             rows (attn.kv), entries, and the tokens of an open compressor block (attn_norm)
#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../../core/config.hpp"
#include "../../core/tap.hpp"

namespace dsv4::golden {

/// How two values of a site may differ; docs/verification.md has the bounds.
enum class tolerance_class : std::uint8_t {
  choice,           ///< integers chosen by comparing scores
  code,             ///< FP8 / FP4 simulation in place: codes times scales
  f32_elementwise,  ///< wide, few operations per element
  f32_reduction,    ///< wide, a sum over many elements
  stored,           ///< a few operations, then one narrow store
  gemm_bf16,        ///< a product with bf16 (or float) weights, stored narrow
  gemm_fp8,         ///< with FP8 weights and activations
  gemm_fp4,         ///< with FP4 weights, FP8 activations
  attention,        ///< softmax over slots times values
  hidden,           ///< the residual streams
  logits,
  margin,  ///< derived from golden scores beside a choice; describes the golden, is never compared
  count
};
inline constexpr std::string_view tolerance_class_names[] = {
    "choice",   "code",     "f32_elementwise", "f32_reduction", "stored", "gemm_bf16",
    "gemm_fp8", "gemm_fp4", "attention",       "hidden",        "logits", "margin"};
static_assert(std::size(tolerance_class_names) == usize(tolerance_class::count));
constexpr std::string_view name_of(tolerance_class c) { return tolerance_class_names[usize(c)]; }
constexpr std::optional<tolerance_class> tolerance_class_of(std::string_view name) {
  for (std::size_t i = 0; i < std::size(tolerance_class_names); ++i)
    if (tolerance_class_names[i] == name) return static_cast<tolerance_class>(i);
  return std::nullopt;
}

/// A few sites, in a constexpr table.
struct site_list {
  std::array<site, 5> all{};
  std::size_t n = 0;

  constexpr site_list(std::initializer_list<site> s) {
    for (const site x : s) all[n++] = x;
  }
  constexpr const site* begin() const { return all.data(); }
  constexpr const site* end() const { return all.data() + n; }
};

struct site_facts {
  site id;
  tolerance_class cls;
  site_list deps;
  bool streams;     ///< also the streams that enter the scope
  site_list state;  ///< also of earlier calls
  std::string_view source;
};

// clang-format off
inline constexpr std::array<site_facts, usize(site::count)> site_table{{
    {site::hc_attn_mixes, tolerance_class::f32_reduction, {}, true, {}, "model.py, Block.hc_pre"},
    {site::hc_attn_pre, tolerance_class::f32_elementwise, {site::hc_attn_mixes}, false, {}, "kernel.py, hc_split_sinkhorn"},
    {site::hc_attn_post, tolerance_class::f32_elementwise, {site::hc_attn_mixes}, false, {}, "kernel.py, hc_split_sinkhorn"},
    {site::hc_attn_comb, tolerance_class::f32_elementwise, {site::hc_attn_mixes}, false, {}, "kernel.py, hc_split_sinkhorn"},
    {site::hc_attn_y, tolerance_class::stored, {site::hc_attn_pre}, true, {}, "model.py, Block.hc_pre"},
    {site::attn_norm, tolerance_class::stored, {site::hc_attn_y}, false, {}, "model.py, RMSNorm.forward"},
    {site::attn_qr, tolerance_class::gemm_fp8, {site::attn_norm}, false, {}, "model.py, Attention.forward (wq_a, q_norm)"},
    {site::attn_q_norm, tolerance_class::gemm_fp8, {site::attn_qr}, false, {}, "model.py, Attention.forward (wq_b, head norm)"},
    {site::attn_q_rope, tolerance_class::stored, {site::attn_q_norm}, false, {}, "model.py, apply_rotary_emb"},
    {site::attn_kv_norm, tolerance_class::gemm_fp8, {site::attn_norm}, false, {}, "model.py, Attention.forward (wkv, kv_norm)"},
    {site::attn_kv, tolerance_class::code, {site::attn_kv_norm}, false, {}, "model.py, apply_rotary_emb; kernel.py, act_quant"},
    {site::indexer_q_had, tolerance_class::gemm_fp8, {site::attn_qr}, false, {}, "model.py, Indexer.forward (wq_b, rope, hadamard)"},
    {site::indexer_q, tolerance_class::code, {site::indexer_q_had}, false, {}, "kernel.py, fp4_act_quant"},
    {site::indexer_compressor_pooled, tolerance_class::gemm_bf16, {site::attn_norm}, false, {site::attn_norm}, "model.py, Compressor.forward"},
    {site::indexer_compressor_norm, tolerance_class::stored, {site::indexer_compressor_pooled}, false, {}, "model.py, Compressor.forward (norm)"},
    {site::indexer_compressor_entry, tolerance_class::code, {site::indexer_compressor_norm}, false, {}, "model.py, Compressor.forward (rope, hadamard, fp4)"},
    {site::indexer_weights, tolerance_class::gemm_bf16, {site::attn_norm}, false, {}, "model.py, Indexer.forward (weights_proj)"},
    {site::indexer_scores, tolerance_class::gemm_bf16, {site::indexer_q, site::indexer_weights, site::indexer_compressor_entry}, false, {site::indexer_compressor_entry}, "model.py, Indexer.forward (index_score)"},
    {site::compressor_pooled, tolerance_class::gemm_bf16, {site::attn_norm}, false, {site::attn_norm}, "model.py, Compressor.forward"},
    {site::compressor_norm, tolerance_class::stored, {site::compressor_pooled}, false, {}, "model.py, Compressor.forward (norm)"},
    {site::compressor_entry, tolerance_class::code, {site::compressor_norm}, false, {}, "model.py, Compressor.forward (rope, act_quant)"},
    {site::attn_topk_idxs, tolerance_class::choice, {site::indexer_scores}, false, {}, "model.py, Indexer.forward; get_window_topk_idxs, get_compress_topk_idxs"},
    {site::attn_o, tolerance_class::attention, {site::attn_q_rope, site::attn_kv, site::compressor_entry, site::attn_topk_idxs}, false, {site::attn_kv, site::compressor_entry}, "kernel.py, sparse_attn"},
    {site::attn_o_derot, tolerance_class::stored, {site::attn_o}, false, {}, "model.py, apply_rotary_emb (inverse)"},
    {site::attn_o_lora, tolerance_class::gemm_bf16, {site::attn_o_derot}, false, {}, "model.py, Attention.forward (wo_a)"},
    {site::attn_out, tolerance_class::gemm_fp8, {site::attn_o_lora}, false, {}, "model.py, Attention.forward (wo_b)"},
    {site::mid, tolerance_class::hidden, {site::attn_out, site::hc_attn_post, site::hc_attn_comb}, true, {}, "model.py, Block.hc_post"},
    {site::hc_ffn_mixes, tolerance_class::f32_reduction, {site::mid}, false, {}, "model.py, Block.hc_pre"},
    {site::hc_ffn_pre, tolerance_class::f32_elementwise, {site::hc_ffn_mixes}, false, {}, "kernel.py, hc_split_sinkhorn"},
    {site::hc_ffn_post, tolerance_class::f32_elementwise, {site::hc_ffn_mixes}, false, {}, "kernel.py, hc_split_sinkhorn"},
    {site::hc_ffn_comb, tolerance_class::f32_elementwise, {site::hc_ffn_mixes}, false, {}, "kernel.py, hc_split_sinkhorn"},
    {site::hc_ffn_y, tolerance_class::stored, {site::hc_ffn_pre, site::mid}, false, {}, "model.py, Block.hc_pre"},
    {site::ffn_norm, tolerance_class::stored, {site::hc_ffn_y}, false, {}, "model.py, RMSNorm.forward"},
    {site::gate_scores, tolerance_class::f32_reduction, {site::ffn_norm}, false, {}, "model.py, Gate.forward"},
    {site::gate_biased, tolerance_class::f32_elementwise, {site::gate_scores}, false, {}, "model.py, Gate.forward"},
    {site::gate_indices, tolerance_class::choice, {site::gate_biased}, false, {}, "model.py, Gate.forward"},
    {site::gate_weights, tolerance_class::f32_elementwise, {site::gate_scores, site::gate_indices}, false, {}, "model.py, Gate.forward"},
    {site::ffn_routed, tolerance_class::gemm_fp4, {site::ffn_norm, site::gate_indices, site::gate_weights}, false, {}, "model.py, MoE.forward, Expert.forward"},
    {site::ffn_shared, tolerance_class::gemm_fp8, {site::ffn_norm}, false, {}, "model.py, Expert.forward"},
    {site::ffn_out, tolerance_class::stored, {site::ffn_routed, site::ffn_shared}, false, {}, "model.py, MoE.forward"},
    {site::out, tolerance_class::hidden, {site::ffn_out, site::hc_ffn_post, site::hc_ffn_comb, site::mid}, false, {}, "model.py, Block.hc_post"},
    {site::hc_head_pre, tolerance_class::f32_reduction, {}, true, {}, "model.py, ParallelHead.hc_head"},
    {site::hc_head_y, tolerance_class::stored, {site::hc_head_pre}, true, {}, "model.py, ParallelHead.hc_head"},
    {site::head_norm, tolerance_class::stored, {site::hc_head_y}, false, {}, "model.py, RMSNorm.forward"},
    {site::logits, tolerance_class::logits, {site::head_norm}, false, {}, "model.py, ParallelHead.forward"},
}};
// clang-format on

/// Every site has its row, and depends only on sites before it.
static_assert(
    [] {
      for (std::size_t i = 0; i < site_table.size(); ++i) {
        if (usize(site_table[i].id) != i) return false;
        for (const site d : site_table[i].deps)
          if (usize(d) >= i) return false;
      }
      return true;
    }(),
    "every site of core/tap.hpp has its row here, in the same order, and depends on earlier sites only");

constexpr const site_facts& facts(site s) { return site_table[usize(s)]; }

/// The site of a name without scope, e.g. "attn.q_rope".
constexpr std::optional<site> site_of(std::string_view name) {
  for (std::size_t i = 0; i < sites.size(); ++i)
    if (sites[i].name == name) return static_cast<site>(i);
  return std::nullopt;
}

/// Names of a site's axes, e.g. {"token", "head", "channel"}.
inline std::vector<std::string> axis_names(site s) {
  std::vector<std::string> out;
  for (const char c : info(s).axes) {
    if (c == ' ') continue;
    const char* name = c == 't'   ? "token"
                       : c == 'm' ? "mix"
                       : c == 'n' ? "stream"
                       : c == 'd' ? "channel"
                       : c == 'q' ? "rank"
                       : c == 'h' ? "head"
                       : c == 'c' ? "entry"
                       : c == 's' ? "slot"
                       : c == 'g' ? "group"
                       : c == 'r' ? "rank"
                       : c == 'e' ? "expert"
                       : c == 'k' ? "choice"
                                  : "vocabulary";
    // comb [t, i, j]: streams read, streams written
    const bool again = !out.empty() && out.back() == name;
    out.push_back(again ? std::string(name) + "_out" : name);
  }
  return out;
}

/// The sites of scopes: heads have the last four, blocks the others.
constexpr bool is_head_site(site s) { return s >= site::hc_head_pre; }
constexpr bool is_indexer_site(site s) { return s >= site::indexer_q_had && s <= site::indexer_scores; }
constexpr bool is_compressor_site(site s) {
  return s >= site::compressor_pooled && s <= site::compressor_entry;
}
/// Sites with one row per closed entry instead of one per token.
constexpr bool is_entry_site(site s) { return info(s).axes.starts_with("c "); }

/// Whether a layer of this ratio has the site.
constexpr bool exists(site s, index_t ratio) {
  if (is_indexer_site(s)) return kind_of_ratio(ratio) == attention_kind::csa;
  if (is_compressor_site(s)) return kind_of_ratio(ratio) != attention_kind::window;
  return true;
}

/// The scope a full name belongs to, and its site; nothing if the name is not one of the model's.
struct parsed_name {
  tap_scope scope;
  site id;
};
inline std::optional<parsed_name> parse_name(std::string_view name) {
  const auto number = [&](std::string_view prefix, index_t& n) {
    if (!name.starts_with(prefix)) return false;
    std::size_t at = prefix.size(), digits = 0;
    constexpr std::size_t most_digits = 6;
    for (n = 0; at < name.size() && '0' <= name[at] && name[at] <= '9' && digits < most_digits;
         ++at, ++digits)
      n = 10 * n + (name[at] - '0');
    if (digits == 0 || at == name.size() || name[at] != '.' || (digits > 1 && name[prefix.size()] == '0'))
      return false;
    name.remove_prefix(at + 1);
    return true;
  };
  tap_scope scope;
  if (number("layers.", scope.number)) {
    scope.where = tap_scope::part::layer;
  } else if (number("mtp.", scope.number)) {
    scope.where = tap_scope::part::mtp;
    if (name.starts_with("head.")) scope.where = tap_scope::part::mtp_head, name.remove_prefix(5);
  } else if (name.starts_with("head.")) {
    scope = {tap_scope::part::head, 0}, name.remove_prefix(5);
  } else {
    return std::nullopt;
  }
  const std::optional<site> id = site_of(name);
  const bool head = scope.where == tap_scope::part::head || scope.where == tap_scope::part::mtp_head;
  if (!id || is_head_site(*id) != head) return std::nullopt;
  return parsed_name{scope, *id};
}

/// The ratio of a scope's layer; heads have none.
inline index_t ratio_of(const tap_scope& scope, const config& c) {
  switch (scope.where) {
    case tap_scope::part::layer: return c.ratio(scope.number);
    case tap_scope::part::mtp: return c.mtp_ratio(scope.number);
    default: return 0;
  }
}

/// Names that a value is computed from: in the same call, and in earlier calls of the same sequence.
struct dependencies {
  std::vector<std::string> deps, state;
};
inline dependencies dependencies_of(const tap_scope& scope, site s, const config& c) {
  using part = tap_scope::part;
  const index_t ratio = ratio_of(scope, c);
  const site_facts& f = facts(s);
  dependencies r;
  const std::string prefix = scope.prefix();
  // A hash layer takes its experts from the table, not from scores.
  const bool by_table =
      s == site::gate_indices && scope.where == part::layer && c.is_hash_layer(scope.number);
  for (const site d : f.deps)
    if (exists(d, ratio) && !by_table) r.deps.push_back(prefix + std::string(info(d).name));
  for (const site d : f.state)
    if (exists(d, ratio)) r.state.push_back(prefix + std::string(info(d).name));
  if (f.streams) {
    const std::string last = "layers." + std::to_string(c.num_hidden_layers - 1) + ".out";
    switch (scope.where) {
      case part::layer:
        if (scope.number > 0) r.deps.push_back("layers." + std::to_string(scope.number - 1) + ".out");
        break;
      case part::head: r.deps.push_back(last); break;
      case part::mtp: r.state.push_back(last); break;
      case part::mtp_head: r.deps.push_back("mtp." + std::to_string(scope.number) + ".out"); break;
    }
  }
  return r;
}

}  // namespace dsv4::golden
