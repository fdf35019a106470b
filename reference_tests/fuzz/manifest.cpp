// SPDX-License-Identifier: MIT
// A bundle's manifest.json: parsed, validated; what is accepted can be written and read again.
#include <optional>

#include <dsv4/golden/bundle/manifest_json.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace golden = dsv4::golden;
  std::optional<golden::parsed_manifest> m;
  dsv4_fuzz::read_or_refuse(
      [&] { m = golden::parse_manifest(dsv4_fuzz::file, dsv4_fuzz::text_of(data, size)); });
  if (!m) return 0;
  const std::string text = golden::manifest_text(m->about, m->tensors);
  const golden::parsed_manifest again = golden::parse_manifest(dsv4_fuzz::file, text);
  dsv4_fuzz::require(golden::manifest_text(again.about, again.tensors) == text,
                     "the manifest's text is not a fixed point");
  return 0;
}
