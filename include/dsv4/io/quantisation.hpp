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

#include <nlohmann/json.hpp>

#include "json_text.hpp"
#include "mapped_file.hpp"
#include "message.hpp"
#include "tensor_table.hpp"

namespace dsv4::io {

namespace detail {

inline constexpr const char* formats_read =
    "; read are FP8 (E4M3) and FP4 with a scale per tile, BF16, F16 and F32: convert the checkpoint to one "
    "of them";

/// A text field of an object, "" if it is not there.
inline std::string text_of(const nlohmann::json& object, const char* name) {
  const auto at = object.find(name);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

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
inline std::optional<std::string> foreign_format(const tensor_table& files, const std::string& stem) {
  for (const auto& [part, name] : foreign_parts)
    if (const std::string found = stem + std::string(part); files.has(found))
      return std::string(name) + " (it has " + in_quotes(found) + ")";
  return std::nullopt;
}

}  // namespace detail

/// Refuses what a configuration says of its weights, if it is a format that is not read.
inline void check_quantisation(const std::filesystem::path& file, const nlohmann::json& configuration) {
  using detail::text_of;
  for (const char* field : {"quantization_config", "compression_config"}) {
    const auto at = configuration.find(field);
    if (at == configuration.end() || !at->is_object() || at->empty()) continue;
    const std::string method = text_of(*at, "quant_method"), format = text_of(*at, "fmt");
    const bool own = method == "fp8" && (format.empty() || format == "e4m3");
    if (own) continue;
    std::string kind;
    for (const char* name : {"quant_algo", "format", "fmt"})
      if (kind.empty()) kind = text_of(*at, name);
    fail_unsupported(file, "field '" + std::string(field) + "': the weights are in the format " +
                               in_quotes(method.empty() ? "unknown" : method) +
                               (kind.empty() ? "" : ", " + in_quotes(kind)) + detail::formats_read);
  }
}

/// The same of hf_quant_config.json in the directory, if it is there.  @throws also format_error
inline void check_modelopt_file(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "hf_quant_config.json";
  std::error_code none;
  if (!std::filesystem::is_regular_file(path, none)) return;
  const mapped_file text(path);
  const nlohmann::json j = parse_json(path, text.text());
  const auto at = j.is_object() ? j.find("quantization") : j.end();
  const std::string algorithm = at != j.end() && at->is_object() ? detail::text_of(*at, "quant_algo") : "";
  if (!algorithm.empty())
    fail_unsupported(
        path, "the weights are in the format 'modelopt', " + in_quotes(algorithm) + detail::formats_read);
}

}  // namespace dsv4::io
