// SPDX-License-Identifier: MIT
#pragma once
/// Weight formats of others, by name.  What this library reads follows from the tensors themselves (weight_reader.hpp);
/// what it does not read is better named than described as a type that was not expected.
///
///   config.json            quantization_config.quant_method, with quant_algo or format; compression_config (older)
///   hf_quant_config.json   quantization.quant_algo (NVIDIA modelopt, beside or instead of the field above)
///   tensors                parts that only one format has: qweight, weight_packed, weight_scale_2, ...
///
/// @throws unsupported with the file and the format's name
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json_fwd.hpp>

#include "tensor_table.hpp"

namespace dsv4::io {

namespace detail {

inline constexpr const char* formats_read =
    "; read are FP8 (E4M3) and FP4 with a scale per tile, BF16, F16 and F32: convert the checkpoint to one "
    "of them";

/// A text field of an object, "" if it is not there.
std::string text_of(const nlohmann::json& object, const char* name);

/// What a matrix has beside it in the formats of others.
inline constexpr std::pair<std::string_view, std::string_view> foreign_parts[] = {
    {".qweight", "AWQ or GPTQ"},
    {".weight_packed", "compressed-tensors"},
    {".weight_global_scale", "compressed-tensors NVFP4"},
    {".weight_scale_2", "NVFP4 of modelopt"},
    {".weight.absmax", "bitsandbytes"},
    {".weight_blocks", "MXFP4"},
};

/// The format that the parts beside matrix `stem` belong to.
std::optional<std::string> foreign_format(const tensor_table& files, const std::string& stem);

}  // namespace detail

/// Refuses what a configuration says of its weights, if it is a format that is not read.
void check_quantisation(const std::filesystem::path& file, const nlohmann::json& configuration);

/// The same of hf_quant_config.json in the directory, if it is there.  @throws also format_error
void check_modelopt_file(const std::filesystem::path& directory);

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "quantisation_impl.hpp"
#endif
