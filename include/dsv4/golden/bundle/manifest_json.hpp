// SPDX-License-Identifier: MIT
#pragma once
/// manifest.json: text to `manifest` and back.
/// Reading refuses what a careful person would: a key twice, an unknown field (names that begin with "x_"
/// are free), a number that is no number of its range, a name that leaves the directory.  Tensor entries
/// are converted one by one while the text is read, so no document of a large bundle is ever in memory.
/// What the entries say of each other is validate.hpp's.
/// @throws damaged (not JSON: truncated?), format_error with file, field, expected, found

#include "../../core/config_macros.hpp"
#include "manifest.hpp"

namespace dsv4::golden {

struct parsed_manifest {
  manifest about;
  std::vector<tensor_entry> tensors;
};

/// Parse the text of a manifest; `file` is for the messages.
parsed_manifest parse_manifest(const std::filesystem::path& file, std::string_view text);

inline constexpr const char *plain_manifest = "manifest.json", *compressed_manifest = "manifest.json.zst";

/// The manifest of a bundle's directory: plain, compressed if only that is there.  It need not exist.
std::filesystem::path manifest_file(const std::filesystem::path& dir);
bool is_bundle(const std::filesystem::path& dir);

parsed_manifest read_manifest(const std::filesystem::path& file, std::size_t max_bytes);

/// The text of a manifest: sorted keys, one line per tensor, LF.
std::string manifest_text(const manifest& m, const std::vector<tensor_entry>& tensors);

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "manifest_json_impl.hpp"
#endif
