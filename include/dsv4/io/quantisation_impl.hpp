// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of quantisation.hpp.
#include <utility>

#include <nlohmann/json.hpp>
#include "json_text.hpp"
#include "mapped_file.hpp"
#include "message.hpp"
#include "quantisation.hpp"

namespace dsv4::io::detail {

DSV4_INLINE std::string text_of(const nlohmann::json& object, const char* name) {
  const auto at = object.find(name);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

DSV4_INLINE std::optional<std::string> foreign_format(const tensor_table& files, const std::string& stem) {
  for (const auto& [part, name] : foreign_parts)
    if (const std::string found = stem + std::string(part); files.has(found))
      return std::string(name) + " (it has " + in_quotes(found) + ")";
  return std::nullopt;
}

}  // namespace dsv4::io::detail

namespace dsv4::io {

DSV4_INLINE void check_quantisation(const std::filesystem::path& file, const nlohmann::json& configuration) {
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

DSV4_INLINE void check_modelopt_file(const std::filesystem::path& directory) {
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
