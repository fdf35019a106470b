// SPDX-License-Identifier: MIT
#pragma once
/// What a published checkpoint of a configuration consists of: every tensor's name, type and shape, as data.
/// checkpoint.hpp reads such files; this is the same list for those who write them.
/// oracle: golden/checkpoint_layout (the tensor lists of Flash and Pro)
///
/// FP8 projections have one E8M0 scale per 128 x 128 tile, FP4 experts (two codes per I8) one per 32 columns.
#include <string>
#include <string_view>
#include <vector>

#include "../core/config.hpp"
#include "../core/dtype.hpp"
#include "../core/error.hpp"
#include "../model/weights.hpp"
#include "../num/block_scaled.hpp"

namespace dsv4::io {

struct hub_tensor {
  std::string name;
  dtype type = dtype::f32;  ///< as safetensors calls it; FP4 pairs are I8
  std::vector<index_t> shape;
  index_t columns = 0;  ///< of the matrix that this is or scales; of others the last axis

  index_t elements() const {
    index_t n = 1;
    for (const index_t s : shape) n *= s;
    return n;
  }
  index_t bytes() const { return elements() * bits_of(type) / 8; }
};

namespace detail {

/// A weight as tensors: FP8 and FP4 have a second one, their scales.
inline void add_hub_tensors(std::vector<hub_tensor>& out, const weight_info& w) {
  const auto tiles = [](index_t n, index_t tile) { return (n + tile - 1) / tile; };
  const auto put = [&](std::string name, dtype type, std::vector<index_t> shape, index_t columns) {
    out.push_back({std::move(name), type, std::move(shape), columns});
  };
  const index_t last = w.shape.back();
  switch (w.format) {
    case weight_format::f32: put(w.name, dtype::f32, w.shape, last); break;
    case weight_format::bfloat16: put(w.name, dtype::bf16, w.shape, last); break;
    case weight_format::i64: put(w.name, dtype::i64, w.shape, last); break;
    case weight_format::fp8:
      put(w.name, dtype::f8_e4m3, w.shape, last);
      put(w.scale_name(), dtype::f8_e8m0, {tiles(w.shape[0], fp8_tile), tiles(last, fp8_tile)}, last);
      break;
    case weight_format::fp4:
      put(w.name, dtype::i8, {w.shape[0], last / 2}, last);
      put(w.scale_name(), dtype::f8_e8m0, {w.shape[0], tiles(last, fp4_tile_cols)}, last);
      break;
  }
}

}  // namespace detail

/// Every tensor, in the order of the tree (model/weights.hpp).  @throws unsupported millions of them (Pro has 145,116): a hostile
/// configuration must not fill the memory with names
inline std::vector<hub_tensor> hub_layout(const config& c) {
  constexpr index_t max_tensors = index_t{1} << 22, each_expert = 6;  // w1, w2, w3, and their scales
  if ((c.num_hidden_layers + c.num_nextn_predict_layers) * c.n_routed_experts > max_tensors / each_expert)
    throw unsupported("a checkpoint of more than " + std::to_string(max_tensors) +
                      " tensors: " + std::to_string(c.num_hidden_layers) + " layers of " +
                      std::to_string(c.n_routed_experts) + " experts");
  std::vector<hub_tensor> out;
  const auto tree = weight_tree<storage::none>(c);
  each_weight(tree, c, [&](const weight_info& w, const auto&) { detail::add_hub_tensors(out, w); });
  return out;
}

}  // namespace dsv4::io
