// SPDX-License-Identifier: MIT
#pragma once
/// How the readers of files word their errors: what came from the file is quoted and cut short, so that
/// a hostile name can neither flood nor rewrite a terminal.
/// @throws format_error, unsupported (the two `fail` functions, always)
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "../core/error.hpp"
#include "../core/view.hpp"

namespace dsv4::io {

/// 'text' between quotes; control characters become '?', and at most 120 bytes are shown.
inline std::string in_quotes(std::string_view text) {
  constexpr std::size_t shown = 120;
  std::string out = "'";
  for (char c : text.substr(0, shown)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  if (text.size() > shown) out += "...";
  return out + "'";
}

/// [2048, 128]
inline std::string shape_text(const std::vector<index_t>& shape) {
  std::string out = "[";
  for (std::size_t a = 0; a < shape.size(); ++a) out += (a ? ", " : "") + std::to_string(shape[a]);
  return out + "]";
}

/// "file: what", as a format_error.
[[noreturn]] inline void fail_format(const std::filesystem::path& file, const std::string& what) {
  throw format_error(file.string() + ": " + what);
}
[[noreturn]] inline void fail_unsupported(const std::filesystem::path& file, const std::string& what) {
  throw unsupported(file.string() + ": " + what);
}

}  // namespace dsv4::io
