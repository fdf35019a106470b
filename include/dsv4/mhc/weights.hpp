// SPDX-License-Identifier: MIT
#pragma once
/// Weights of mHC: how streams mix, and how they are read out.
/// @paper{DSV4, section 2.2}
/// axes     docs/notation.md
/// oracle   golden/checkpoint_layout (every name and shape)
/// deviates none
#include <string>
#include <vector>

#include "../num/weight_info.hpp"

namespace dsv4 {

/// How n streams mix around one half block (hc_attn, hc_ffn), or are read out before the final norm (hc_head).
template <class Storage = storage::stored>
struct hyper_connection_weights {
  typename Storage::matrix fn;                 // [m, n D]  m = (2+n)n: n pre, n post, n*n comb (row-major);
                                               //           of the read-out m = n
  typename Storage::template values<1> base;   // [m]
  typename Storage::template values<1> scale;  // [3] pre, post, comb; of the read-out [1]
};

/// `stem`: hc_attn, hc_ffn, hc_head.  `parts`: rows of W_pre, W_post and W_res; of W_pre alone in a
/// read-out.  Each is a matrix of its own for Muon.
template <class Walk, class... W>
void walk_hyper_connection(Walk& at, const std::string& stem, const std::vector<index_t>& parts, W&... w) {
  using enum update_rule;
  index_t rows = 0;
  for (const index_t r : parts) rows += r;
  const weight_axis streams{at.c.hc_mult * at.c.hidden_size, channel_kind::streams};
  at(weight_info(stem + "_fn", {rows, streams}, weight_format::f32, muon, initial_value::hyper_mix)
         .of_matrices(parts),
     w.fn...);
  at(weight_info(stem + "_base", {rows}, weight_format::f32, adamw, initial_value::zero), w.base...);
  const auto scales = static_cast<index_t>(parts.size());
  at(weight_info(stem + "_scale", {scales}, weight_format::f32, adamw, initial_value::hyper_alpha),
     w.scale...);
}

}  // namespace dsv4
