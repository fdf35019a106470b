// SPDX-License-Identifier: MIT
#pragma once
/// config.json as a `config`: the hub's form (hidden_size, ...), as published or as transformers writes it
/// (config_transformers.hpp), and the form of the released inference code (dim, ...), told apart by their fields.
/// Every size is checked here, once: positive, below a sane bound, and divisible where the model divides.
/// What would make this another model (another model_type, scoring function, activation, ...) is refused
/// by name instead of being read as if it were absent.  All that is wrong is said at once.
/// @throws format_error a field is missing, of the wrong type, or impossible: file, field, expected, found
/// @throws unsupported  a valid file that describes another architecture: the feature's name
///
/// Absent fields of the inference form: norm_eps and hc_eps 1e-6; MTP blocks = entries of compress_ratios
/// beyond the layers; maximum position = max_seq_len, else original_seq_len * rope_factor.
#include <filesystem>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "../core/config.hpp"

namespace dsv4::io {

namespace detail {

// Upper bounds: far above any model, far below where a product of two of them overflows.
DSV4_INLINE constexpr index_t most_width = index_t{1} << 20;  // any width of a vector
DSV4_INLINE constexpr index_t most_count = index_t{1} << 16;  // heads, experts, groups
DSV4_INLINE constexpr index_t most_layers = 4096;
DSV4_INLINE constexpr index_t most_vocab = index_t{1} << 24;
DSV4_INLINE constexpr index_t most_positions = index_t{1} << 31;  // positions stay exact in every 32-bit id
DSV4_INLINE constexpr index_t most_streams = 16, most_mtp = 64, most_sinkhorn = 1000;
DSV4_INLINE constexpr double most_theta = 1e12, most_eps = 0.1, most_scale = 1e6;

}  // namespace detail

/// The configuration in a parsed JSON document; `file` is for the messages.
config parse_config(const std::filesystem::path& file, const nlohmann::json& object);

/// The configuration file of `path`: the file itself, or DIR/config.json, or DIR/inference/config.json.
std::filesystem::path find_config(const std::filesystem::path& path);

/// Parse and check a configuration's text; `file` is for the messages.  @throws format_error, unsupported
config parse_config_text(const std::filesystem::path& file, std::string_view text);

/// Read and check a configuration.  @throws format_error, unsupported
config read_config(const std::filesystem::path& path);

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "config_json_impl.hpp"
#endif
