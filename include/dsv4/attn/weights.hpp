// SPDX-License-Identifier: MIT
#pragma once
/// Weights of one attention: projections, compressor, indexer.
/// @paper{DSV4, section 2.3}
/// axes     docs/notation.md
/// oracle   golden/checkpoint_layout (every name and shape)
/// deviates none
#include <optional>

#include "../core/tensor.hpp"
#include "../num/block_scaled.hpp"

namespace dsv4 {

/// Token compressor: c = 2 for CSA (overlapping blocks), 1 for HCA; d = head_dim or index_head_dim.
struct compressor_weights {
  weight_matrix wkv, wgate;  // [c d, D]
  tensor<float, 2> ape;      // [ratio, c d]
  tensor<float, 1> norm;     // [d]
};

/// Lightning indexer (CSA layers).
struct indexer_weights {
  weight_matrix wq_b;          // [ih id, qr]
  weight_matrix weights_proj;  // [ih, D]
  compressor_weights compressor;
};

struct attention_weights {
  weight_matrix wq_a;                            // [qr, D]
  tensor<float, 1> q_norm;                       // [qr]
  weight_matrix wq_b;                            // [H hd, qr]
  weight_matrix wkv;                             // [hd, D]
  tensor<float, 1> kv_norm;                      // [hd]
  tensor<float, 1> attn_sink;                    // [H]
  weight_matrix wo_a;                            // [g r, H hd / g]
  weight_matrix wo_b;                            // [D, g r]
  std::optional<compressor_weights> compressor;  // ratio > 0
  std::optional<indexer_weights> indexer;        // ratio 4
};

}  // namespace dsv4
