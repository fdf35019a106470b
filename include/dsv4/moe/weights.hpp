// SPDX-License-Identifier: MIT
#pragma once
/// Weights of one mixture of experts.
/// @paper{DSV4, section 2.1}
/// axes     docs/notation.md
/// oracle   golden/checkpoint_layout (every name and shape)
/// deviates none
#include <cstring>
#include <vector>

#include "../core/tensor.hpp"
#include "../num/block_scaled.hpp"

namespace dsv4 {

/// Expert ids of every token of the vocabulary (hash layers): [vocab, k], I64 or I32.
struct expert_table {
  dtype type = dtype::i64;
  const std::byte* data = nullptr;
  index_t rows = 0, k = 0;

  bool present() const { return data != nullptr; }
  index_t at(index_t token, index_t j) const {
    if (type == dtype::i64) {
      std::int64_t v;
      std::memcpy(&v, data + (token * k + j) * 8, 8);
      return v;
    }
    std::int32_t v;
    std::memcpy(&v, data + (token * k + j) * 4, 4);
    return v;
  }
};

struct gate_weights {
  weight_matrix weight;   // [E, D]
  tensor<float, 1> bias;  // [E]         selection only; empty in hash layers
  expert_table tid2eid;   // [vocab, k]  hash layers only
};

/// One SwiGLU expert: w2(silu(w1 x) * w3 x).
struct expert_weights {
  weight_matrix w1, w3;  // [I, D]
  weight_matrix w2;      // [D, I]
};

struct moe_weights {
  gate_weights gate;
  std::vector<expert_weights> experts;  // [E]
  expert_weights shared;
};

}  // namespace dsv4
