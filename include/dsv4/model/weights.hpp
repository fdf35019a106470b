// SPDX-License-Identifier: MIT
#pragma once
/// All weights of a model.  Matrices are views in their stored format; the small vectors (norms,
/// biases, sinks, ape) are decoded to float when the checkpoint is opened, which is exact for
/// F32, BF16 and F16.
/// @paper{DSV4, section 2}
/// axes     docs/notation.md
/// oracle   golden/checkpoint_layout (every name and shape)
/// deviates none
#include <vector>

#include "../attn/weights.hpp"
#include "../mhc/weights.hpp"
#include "../moe/weights.hpp"

namespace dsv4 {

struct block_weights {
  hyper_connection_weights hc_attn, hc_ffn;
  tensor<float, 1> attn_norm, ffn_norm;  // [D]
  attention_weights attn;
  moe_weights ffn;
};

/// The multi-token-prediction module: two projections, a whole block, its own read-out.
struct mtp_weights {
  tensor<float, 1> enorm, hnorm;  // [D]
  weight_matrix e_proj, h_proj;   // [D, D]
  block_weights block;
  hyper_head_weights hc_head;
  tensor<float, 1> norm;  // [D]
};

struct model_weights {
  weight_matrix embed;  // [vocab, D]
  std::vector<block_weights> layers;
  hyper_head_weights hc_head;
  tensor<float, 1> norm;  // [D]
  weight_matrix head;     // [vocab, D]
  std::vector<mtp_weights> mtp;
};

}  // namespace dsv4
