// SPDX-License-Identifier: MIT
#pragma once
/// What one decoded token costs at a context length: operations, and the bytes of weights that it touches; and the
/// same of DeepSeek-V3.2, which the report compares with.
/// @paper{DSV4, section 2.3.4 and Figure 1}
/// axes     docs/notation.md
/// oracle   the printed ratios at 1M tokens: docs/claims.md
/// deviates none
///
/// Operations are counted in units of one FP8 operation, as the report does: tensor cores of today do BF16 at half
/// and FP4 x FP4 at twice the rate of FP8.  An FP4 weight meets FP8 activations and runs at the rate of FP8.  The report
/// prints no formula; this one gives its printed ratios to 1 % (docs/claims.md).
#include <algorithm>

#include "accounting.hpp"

namespace dsv4 {

/// Operations (a multiplication and an addition are two) of one token, before prices.
struct decode_operations {
  double fp8_products = 0;   ///< with FP8 and FP4 weights
  double bf16_products = 0;  ///< with BF16 and F32 weights: compressors, routers, mHC, head
  double core = 0;           ///< attention over window and entries, BF16
  double index = 0;          ///< scores of the lightning indexer
  double index_price = 1;    ///< of one of them: FP4 in V4, FP8 in V3.2

  /// In units of FP8 operations.
  double fp8_equivalent() const {
    constexpr double bf16_price = 2;
    return fp8_products + bf16_price * (bf16_products + core) + index_price * index;
  }
};

/// Is this weight multiplied with the activations of every token?  The embedding is looked up, norms and biases are
/// no products.
inline bool is_product(const weight_info& w) {
  return w.rule == update_rule::muon || w.start == initial_value::head;
}

/// Of a configuration, at `context` tokens of which all are visible.  MTP not included.
inline decode_operations count_decode_operations(const config& c, index_t context) {
  decode_operations r{.index_price = 0.5};
  const auto tree = weight_tree<storage::none>(c, 0, std::min<index_t>(c.n_routed_experts, 1));
  each_weight(tree, c, [&](const weight_info& w, const auto&) {
    if (!is_product(w)) return;
    const double products =
        2.0 * static_cast<double>(w.size()) * static_cast<double>(w.expert >= 0 ? c.num_experts_per_tok : 1);
    const bool eight_bits = w.format == weight_format::fp8 || w.format == weight_format::fp4;
    (eight_bits ? r.fp8_products : r.bf16_products) += products;
  });
  const double heads = static_cast<double>(c.num_attention_heads * c.head_dim),
               n = static_cast<double>(context);
  for (index_t l = 0; l < c.num_hidden_layers; ++l) {
    const attention_kind kind = c.kind(l);
    const double entries = kind == attention_kind::window ? 0 : n / static_cast<double>(c.ratio(l));
    const double slots =
        std::min(static_cast<double>(c.sliding_window), n) +
        (kind == attention_kind::csa ? std::min(entries, static_cast<double>(c.index_topk)) : entries);
    r.core += 4 * heads * slots;  // q k and p v
    if (kind == attention_kind::csa)
      r.index += 2 * static_cast<double>(c.index_n_heads * c.index_head_dim) * entries;
  }
  return r;
}

/// Bytes of weights that one decoded token of one sequence reads, in the published formats.
inline double count_decode_bytes(const config& c) {
  double bytes = 0;
  const auto tree = weight_tree<storage::none>(c, 0, std::min<index_t>(c.n_routed_experts, 1));
  each_weight(tree, c, [&](const weight_info& w, const auto&) {
    if (w.start == initial_value::embedding || w.format == weight_format::i64) return;  // a row of a table
    const double n =
        static_cast<double>(w.size()) * static_cast<double>(w.expert >= 0 ? c.num_experts_per_tok : 1);
    switch (w.format) {
      case weight_format::f32: bytes += 4 * n; break;
      case weight_format::bfloat16: bytes += 2 * n; break;
      case weight_format::fp8: bytes += n * (1 + 1.0 / double(fp8_tile * fp8_tile)); break;
      case weight_format::fp4: bytes += n * (0.5 + 1.0 / double(fp4_tile_cols)); break;
      case weight_format::i64: break;
    }
  });
  return bytes;
}

/// DeepSeek-V3.2, as its report and its configuration say: multi-head latent attention, 2048 chosen tokens.
struct v32 {
  static constexpr double layers = 61, heads = 128, latent = 512, rotary = 64, index_heads = 64,
                          index_dim = 128;
  static constexpr double top_k = 2048, active_parameters = 37e9;
  static constexpr double kv_row_bytes =
      656 + 132;  // latent in FP8 with its scales and rotary part; index key in FP8

  static decode_operations operations(index_t context) {
    const double n = static_cast<double>(context);
    return {.fp8_products = 2 * active_parameters,
            .core = 2 * heads * (latent + rotary + latent) * std::min(n, top_k) * layers,
            .index = 2 * index_heads * index_dim * n * layers};
  }
  static double kv_bytes(index_t context) { return kv_row_bytes * layers * static_cast<double>(context); }
};

}  // namespace dsv4
