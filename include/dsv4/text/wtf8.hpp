// SPDX-License-Identifier: MIT
#pragma once
/// UTF-8 that may hold lone surrogates.  Python's str can (JSON's "\ud83d" makes one), UTF-8 cannot; here such a
/// code point is written in three bytes like any other of its size (Python: s.encode("utf-8", "surrogatepass")),
/// so that nothing is lost between reading and writing.  Text that came as bytes never holds one: it is refused.
#include <cstddef>
#include <string_view>

#include "unicode.hpp"

namespace dsv4::text {

/// Whether code points D800 to DFFF count as text.
enum class surrogates { refused, allowed };

constexpr bool is_high_surrogate(char32_t c) { return c >= 0xD800 && c <= 0xDBFF; }
constexpr bool is_low_surrogate(char32_t c) { return c >= 0xDC00 && c <= 0xDFFF; }

/// The code point of a pair.
constexpr char32_t join_surrogates(char32_t high, char32_t low) {
  return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

/// A code point and the bytes it takes; 0 bytes: there is no character.
struct code_point {
  char32_t value = 0;
  std::size_t bytes = 0;
};

/// The character at `at`.  @pre at < text.size()
inline code_point decode_wtf8(std::string_view text, std::size_t at, surrogates lone) {
  const utf8_step s = step_at(text, at);
  if (s.valid) return {code_point_at(text, at), usize(s.length)};
  const auto in = [&](std::size_t k, unsigned char low) {
    const auto b = static_cast<unsigned char>(text[at + k]);
    return b >= low && b <= 0xBF;
  };
  if (lone == surrogates::allowed && text.size() - at >= 3 && text[at] == '\xED' && in(1, 0xA0) &&
      in(2, 0x80))
    return {code_point_at(text, at), 3};
  return {};
}

}  // namespace dsv4::text
