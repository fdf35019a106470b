// SPDX-License-Identifier: MIT
// config.json in both forms: what is accepted is a model whose canonical text gives the same model.
#include <optional>

#include <nlohmann/json.hpp>

#include <dsv4/io/config_json.hpp>
#include <dsv4/io/config_out.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace io = dsv4::io;
  std::optional<dsv4::config> c;
  dsv4_fuzz::read_or_refuse(
      [&] { c = io::parse_config_text(dsv4_fuzz::file, dsv4_fuzz::text_of(data, size)); });
  if (!c) return 0;
  const std::string text = io::to_json(*c).dump();
  dsv4_fuzz::require(io::to_json(io::parse_config_text(dsv4_fuzz::file, text)).dump() == text,
                     "the configuration's text is not a fixed point");
  return 0;
}
