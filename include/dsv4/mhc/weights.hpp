// SPDX-License-Identifier: MIT
#pragma once
/// Weights of mHC: how streams mix, and how they are read out.
/// @paper{DSV4, section 2.2}
/// axes     docs/notation.md
/// oracle   golden/checkpoint_layout (every name and shape)
/// deviates none
#include "../core/tensor.hpp"
#include "../num/block_scaled.hpp"

namespace dsv4 {

/// mHC mixing of one half block: hc_{attn,ffn}_{fn, base, scale}.
struct hyper_connection_weights {
  weight_matrix fn;        // [(2+n)n, n D]  rows: n pre, n post, n*n comb (row-major)
  tensor<float, 1> base;   // [(2+n)n]
  tensor<float, 1> scale;  // [3]            pre, post, comb
};

/// mHC read-out before the final norm: hc_head_{fn, base, scale}.
struct hyper_head_weights {
  weight_matrix fn;        // [n, n D]
  tensor<float, 1> base;   // [n]
  tensor<float, 1> scale;  // [1]
};

}  // namespace dsv4
