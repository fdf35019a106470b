// SPDX-License-Identifier: MIT
#pragma once
/// Trained weights as a checkpoint directory of the hub: config.json, tokenizer.json, one shard and its index.
/// Each file appears whole or not at all, config.json last.
///
///   write_float     every parameter as F32, for transformers and for more training
///   write_official  the published types: FP4 experts (two codes per I8), FP8 projections, BF16, F32
///                   (train/quantise.hpp), scales E8M0
///
/// Both are read by io::checkpoint, by `dsv4 generate --model DIR`, and the first by PyPI transformers.
/// @throws contract_violation a weight that is not finite (its name), a tokenizer of more ids than the vocabulary,
/// tables that do not fit the configuration   @throws error a file cannot be written
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../core/config.hpp"
#include "../core/config_macros.hpp"
#include "../num/fp4_to_fp8.hpp"
#include "../text/tokenizer.hpp"
#include "../train/parameters.hpp"
#include "../train/quantise.hpp"

namespace dsv4::trainer {

/// What was written.
struct export_report {
  std::size_t tensors = 0, bytes = 0;  ///< of the shard
  /// Of the experts: how far FP4 scales differ inside an FP8 tile, and where (num/fp4_to_fp8.hpp).
  std::optional<fp4_spread> widest;
  std::string widest_name;
  /// The experts can be cast to FP8 without loss.
  bool lossless(cast_limit limit = cast_limit::released) const {
    return !widest || widest->ratio() <= static_cast<int>(limit);
  }
};

/// Every parameter as F32.  `tokenizer`: a tokenizer.json or its folder; empty: none is written.
export_report write_float(const std::filesystem::path& dir, const config& c,
                          const train::parameter_layout& layout, view<const float, 1> weights,
                          const train::routing_tables& routing, const std::filesystem::path& tokenizer = {});

/// As published.  The decoded values are those of train::fake_quantise.
export_report write_official(const std::filesystem::path& dir, const config& c,
                             const train::parameter_layout& layout, view<const float, 1> weights,
                             const train::routing_tables& routing,
                             const std::filesystem::path& tokenizer = {});

}  // namespace dsv4::trainer

#if !defined(DSV4_COMPILED)
#include "export_impl.hpp"
#endif
