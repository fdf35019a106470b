// SPDX-License-Identifier: MIT
#pragma once
/// Sizes, choices and weights of a DSpark drafter, with the checkpoint's names.
/// source   DSpark; as released with DeepSeek-V4-Flash-DSpark and -V4.1
/// axes     d channel · n stream · m packed mixes · h head · e expert · i inner channel · v vocabulary
#include <cstdint>
#include <vector>

#include "../core/view.hpp"
#include "heads.hpp"

namespace dsv4::dspark {

/// What sizes of weights do not say.
struct drafter_settings {
  index_t block = 5;     ///< slots
  index_t window = 128;  ///< positions of context that are kept
  index_t streams = 4;   ///< residual streams
  index_t rotary = 64;   ///< channels of a head that turn, the last ones
  index_t groups = 8;    ///< of the output projection
  index_t experts_per_token = 6;
  std::int32_t noise = 128799;  ///< the token of all slots but the first
  double rope_theta = 10000, norm_eps = 1e-6, hc_eps = 1e-6;
  index_t sinkhorn_iterations = 20;
  double route_scale = 1.5, swiglu_limit = 10;
  /// V4: every head's query has unit RMS.  V4.1: it has not.
  bool unit_queries = true;
  /// V4.1: a site reads with the weights that the site before it computed, the first reads stream 0 alone, and the
  /// block's output is read with the last site's; V4: each with its own, and hc_head at the end.
  bool reads_with_the_site_before = false;
  /// The released drafters: the confidence head reads the state before the last norm.
  bool confidence_reads_raw = true;
};

template <class T>
struct mixing_weights {
  view<const T, 2> fn;           // [m, n d]: hc_*_fn
  view<const T, 1> scale, base;  // [3], [m]
};
template <class T>
struct draft_expert {
  view<const T, 2> w1, w2, w3;  // [i,d] [d,i] [i,d]
};
/// mtp.N
template <class T>
struct stage_weights {
  mixing_weights<T> hc_attn, hc_ffn;
  view<const T, 1> attn_norm, ffn_norm;
  view<const T, 2> wq_a, wq_b, wkv, wo_a, wo_b;
  view<const T, 1> q_norm, kv_norm, attn_sink;
  view<const T, 2> gate;       // [e,d]
  view<const T, 1> gate_bias;  // [e], for the choice alone
  std::vector<draft_expert<T>> experts;
  draft_expert<T> shared;
};
template <class T>
struct drafter_weights {
  view<const T, 2> embed, head;  // [v,d], the target's
  view<const T, 2> main_proj;    // [d, layers d]
  view<const T, 1> main_norm;    // [d]
  std::vector<stage_weights<T>> stages;
  mixing_weights<T> hc_head;  // V4
  view<const T, 1> norm;      // [d]
  markov_weights<T> markov;
  confidence_weights<T> confidence;
};

}  // namespace dsv4::dspark
