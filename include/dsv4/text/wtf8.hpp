// SPDX-License-Identifier: MIT
#pragma once
/// UTF-8 that may hold lone surrogates.  Python's str can (JSON's "\ud83d" makes one), UTF-8 cannot; here such a
/// code point is written in three bytes like any other of its size (Python: s.encode("utf-8", "surrogatepass")),
/// so that nothing is lost between reading and writing.  Text that came as bytes never holds one: it is refused.
#include <cstddef>
#include <string>
#include <string_view>

namespace dsv4::text {

/// Whether code points D800 to DFFF count as text.
enum class surrogates { refused, allowed };

constexpr bool is_high_surrogate(char32_t c) { return c >= 0xD800 && c <= 0xDBFF; }
constexpr bool is_low_surrogate(char32_t c) { return c >= 0xDC00 && c <= 0xDFFF; }

/// The code point of a pair.
constexpr char32_t join_surrogates(char32_t high, char32_t low) {
  return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

/// A code point and the bytes it takes; 0 bytes: there is no whole, shortest-form character.
struct code_point {
  char32_t value = 0;
  std::size_t bytes = 0;
};

/// The character at `at`, which is inside `text`.
constexpr code_point decode_wtf8(std::string_view text, std::size_t at, surrogates lone) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t n = lead >= 0xF0 && lead <= 0xF4 ? 4 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xC2 && lead < 0xE0 ? 2 : 0;
  if (n == 0 || text.size() - at < n) return {};
  char32_t c = lead & (0xFFu >> (n + 1));
  for (std::size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    c = c << 6 | (byte(i) & 0x3F);
  }
  constexpr char32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (c < smallest[n] || c > 0x10FFFF) return {};
  if (lone == surrogates::refused && (is_high_surrogate(c) || is_low_surrogate(c))) return {};
  return {c, n};
}

/// Appends a code point, surrogates included.
inline void append_wtf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}

}  // namespace dsv4::text
