// SPDX-License-Identifier: MIT
#pragma once
/// UTF-8, and the two facts about characters that the tokenizer needs.
/// Text that comes in may be any bytes; what is tokenized, and what comes out, is UTF-8.  Repair replaces
/// every maximal run of bytes that begins a character but does not finish one, and every byte that begins
/// none, by U+FFFD: the rule of the Unicode standard (3.9, U+FFFD substitution of maximal subparts), of
/// Python's bytes.decode("utf-8", "replace") and of Rust's from_utf8_lossy.
///
/// Stand-ins: tokenizer.json is written for Oniguruma (Unicode 16), and PCRE2 10.42 knows Unicode 14.  A
/// character that the two would classify differently is shown to PCRE2 as another one, of the right
/// category and of the same number of bytes; a newer PCRE2 sees the same categories.
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "../core/view.hpp"

namespace dsv4::text {

inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";  ///< U+FFFD

/// What stands at one place of a text of any bytes.
struct utf8_step {
  int length;       ///< bytes of the character, or of what has to be replaced, 1 to 4
  bool valid;       ///< a whole character
  bool unfinished;  ///< not valid, but more bytes after the end of the text could make it so
};

/// The character at `at`.  @pre at < text.size()
inline utf8_step step_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[at + k]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte excludes overlong forms (E0, F0), surrogates (ED) and what is above U+10FFFF (F4).
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (int k = 1; k < length; ++k) {
    if (at + usize(k) == text.size()) return {k, false, true};
    const unsigned char b = byte(usize(k));
    if (k == 1 ? b < low || b > high : b < 0x80 || b > 0xBF) return {k, false, false};
  }
  return {length, true, false};
}

/// Length of the longest prefix that is UTF-8.
inline std::size_t valid_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const utf8_step s = step_at(text, at);
    if (!s.valid) break;
    at += usize(s.length);
  }
  return at;
}

/// The code point at `at` of valid UTF-8.
inline char32_t code_point_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t k) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + k]));
  };
  const auto tail = [&](std::size_t k) { return byte(k) & 0x3F; };
  const char32_t lead = byte(0);
  if (lead < 0x80) return lead;
  if (lead < 0xE0) return (lead & 0x1F) << 6 | tail(1);
  if (lead < 0xF0) return (lead & 0x0F) << 12 | tail(1) << 6 | tail(2);
  return (lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
}

/// Where the character that ends at `end` of valid UTF-8 begins.  @pre end > 0
inline std::size_t character_before(std::string_view text, std::size_t end) {
  do --end;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

/// Appends `c` to `out`.
inline void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t b) { out += static_cast<char>(static_cast<unsigned char>(b)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xE0 | c >> 12);
    } else {
      put(0xF0 | c >> 18);
      put(0x80 | (c >> 12 & 0x3F));
    }
    put(0x80 | (c >> 6 & 0x3F));
  }
  put(0x80 | (c & 0x3F));
}

/// Repair of a stream: the text of every byte whose fate is known; an unfinished character at the end waits
/// for its next bytes, at most three of them.
/// @post the texts of all calls and of `finish` together are the repair of all bytes together.
class utf8_stream {
 public:
  std::string push(std::string_view bytes) {
    pending_.append(bytes);
    return take(false);
  }
  /// The end: an unfinished character becomes U+FFFD.
  std::string finish() { return take(true); }

 private:
  std::string take(bool end) {
    std::string out;
    std::size_t at = 0;
    while (at < pending_.size()) {
      const utf8_step s = step_at(pending_, at);
      if (s.unfinished && !end) break;
      if (s.valid)
        out.append(pending_, at, usize(s.length));
      else
        out.append(replacement_character);
      at += usize(s.length);
    }
    pending_.erase(0, at);
    return out;
  }
  std::string pending_;
};

/// Any bytes as UTF-8.
inline std::string repaired(std::string_view bytes) {
  utf8_stream stream;
  std::string out = stream.push(bytes);
  return out += stream.finish();
}

/// White_Space of Unicode, which is \s of Oniguruma.
inline bool is_white_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

namespace detail {

/// General categories that the table below needs, in the order of `stand_ins`.
enum category : std::uint8_t { Lu, Ll, Lm, Lo, Mn, Mc, Nd, No, Pd, Po, Sm, So, Cf };

/// A character of each category that every PCRE2 knows, of three and of four bytes in UTF-8.
struct stand_in {
  char32_t three, four;
};
inline constexpr std::array<stand_in, 13> stand_ins{{
    // clang-format off
    {0x1E00, 0x10400}, {0x1E01, 0x10428}, {0x1D2C, 0x16B40}, {0x4E00, 0x10000},  // Lu Ll Lm Lo
    {0x0900, 0x101FD}, {0x0903, 0x11000}, {0x0966, 0x104A0}, {0x2460, 0x10107},  // Mn Mc Nd No
    {0x2010, 0x10EAD}, {0x2016, 0x10100}, {0x2044, 0x1D6C1}, {0x2300, 0x10137},  // Pd Po Sm So
    {0x2060, 0xE0001},  // Cf
    // clang-format on
}};

/// A run of characters that Oniguruma and an older PCRE2 classify differently.
struct newer_range {
  char32_t first, last;
  category is;
};
/// Made by reference_tests/oracle/unicode_stand_ins.py: what Unicode 15, 15.1 and 16 added or changed, and
/// U+180E, which PCRE2 alone counts as white space.
inline constexpr newer_range newer_characters[] = {
    // clang-format off
    {0x897, 0x897, Mn}, {0xCF3, 0xCF3, Mc}, {0xECE, 0xECE, Mn}, {0x180E, 0x180E, Cf}, {0x1B4E, 0x1B4F, Po},
    {0x1B7F, 0x1B7F, Po}, {0x1C89, 0x1C89, Lu}, {0x1C8A, 0x1C8A, Ll}, {0x2427, 0x2429, So},
    {0x2FFC, 0x2FFF, So}, {0x31E4, 0x31E5, So}, {0x31EF, 0x31EF, So}, {0xA7CB, 0xA7CC, Lu},
    {0xA7CD, 0xA7CD, Ll}, {0xA7DA, 0xA7DA, Lu}, {0xA7DB, 0xA7DB, Ll}, {0xA7DC, 0xA7DC, Lu},
    {0x105C0, 0x105F3, Lo}, {0x10D40, 0x10D49, Nd}, {0x10D4A, 0x10D4D, Lo}, {0x10D4E, 0x10D4E, Lm},
    {0x10D4F, 0x10D4F, Lo}, {0x10D50, 0x10D65, Lu}, {0x10D69, 0x10D6D, Mn}, {0x10D6E, 0x10D6E, Pd},
    {0x10D6F, 0x10D6F, Lm}, {0x10D70, 0x10D85, Ll}, {0x10D8E, 0x10D8F, Sm}, {0x10EC2, 0x10EC4, Lo},
    {0x10EFC, 0x10EFF, Mn}, {0x1123F, 0x11240, Lo}, {0x11241, 0x11241, Mn}, {0x11380, 0x11389, Lo},
    {0x1138B, 0x1138B, Lo}, {0x1138E, 0x1138E, Lo}, {0x11390, 0x113B5, Lo}, {0x113B7, 0x113B7, Lo},
    {0x113B8, 0x113BA, Mc}, {0x113BB, 0x113C0, Mn}, {0x113C2, 0x113C2, Mc}, {0x113C5, 0x113C5, Mc},
    {0x113C7, 0x113CA, Mc}, {0x113CC, 0x113CD, Mc}, {0x113CE, 0x113CE, Mn}, {0x113CF, 0x113CF, Mc},
    {0x113D0, 0x113D0, Mn}, {0x113D1, 0x113D1, Lo}, {0x113D2, 0x113D2, Mn}, {0x113D3, 0x113D3, Lo},
    {0x113D4, 0x113D5, Po}, {0x113D7, 0x113D8, Po}, {0x113E1, 0x113E2, Mn}, {0x116D0, 0x116E3, Nd},
    {0x1171E, 0x1171E, Mc}, {0x11B00, 0x11B09, Po}, {0x11BC0, 0x11BE0, Lo}, {0x11BE1, 0x11BE1, Po},
    {0x11BF0, 0x11BF9, Nd}, {0x11F00, 0x11F01, Mn}, {0x11F02, 0x11F02, Lo}, {0x11F03, 0x11F03, Mc},
    {0x11F04, 0x11F10, Lo}, {0x11F12, 0x11F33, Lo}, {0x11F34, 0x11F35, Mc}, {0x11F36, 0x11F3A, Mn},
    {0x11F3E, 0x11F3F, Mc}, {0x11F40, 0x11F40, Mn}, {0x11F41, 0x11F41, Mc}, {0x11F42, 0x11F42, Mn},
    {0x11F43, 0x11F4F, Po}, {0x11F50, 0x11F59, Nd}, {0x11F5A, 0x11F5A, Mn}, {0x1342F, 0x1342F, Lo},
    {0x13439, 0x1343F, Cf}, {0x13440, 0x13440, Mn}, {0x13441, 0x13446, Lo}, {0x13447, 0x13455, Mn},
    {0x13460, 0x143FA, Lo}, {0x16100, 0x1611D, Lo}, {0x1611E, 0x16129, Mn}, {0x1612A, 0x1612C, Mc},
    {0x1612D, 0x1612F, Mn}, {0x16130, 0x16139, Nd}, {0x16D40, 0x16D42, Lm}, {0x16D43, 0x16D6A, Lo},
    {0x16D6B, 0x16D6C, Lm}, {0x16D6D, 0x16D6F, Po}, {0x16D70, 0x16D79, Nd}, {0x18CFF, 0x18CFF, Lo},
    {0x1B132, 0x1B132, Lo}, {0x1B155, 0x1B155, Lo}, {0x1CC00, 0x1CCEF, So}, {0x1CCF0, 0x1CCF9, Nd},
    {0x1CD00, 0x1CEB3, So}, {0x1D2C0, 0x1D2D3, No}, {0x1DF25, 0x1DF2A, Ll}, {0x1E030, 0x1E06D, Lm},
    {0x1E08F, 0x1E08F, Mn}, {0x1E4D0, 0x1E4EA, Lo}, {0x1E4EB, 0x1E4EB, Lm}, {0x1E4EC, 0x1E4EF, Mn},
    {0x1E4F0, 0x1E4F9, Nd}, {0x1E5D0, 0x1E5ED, Lo}, {0x1E5EE, 0x1E5EF, Mn}, {0x1E5F0, 0x1E5F0, Lo},
    {0x1E5F1, 0x1E5FA, Nd}, {0x1E5FF, 0x1E5FF, Po}, {0x1F6DC, 0x1F6DC, So}, {0x1F774, 0x1F776, So},
    {0x1F77B, 0x1F77F, So}, {0x1F7D9, 0x1F7D9, So}, {0x1F8B2, 0x1F8BB, So}, {0x1F8C0, 0x1F8C1, So},
    {0x1FA75, 0x1FA77, So}, {0x1FA87, 0x1FA89, So}, {0x1FA8F, 0x1FA8F, So}, {0x1FAAD, 0x1FAAF, So},
    {0x1FABB, 0x1FABF, So}, {0x1FAC6, 0x1FAC6, So}, {0x1FACE, 0x1FACF, So}, {0x1FADA, 0x1FADC, So},
    {0x1FADF, 0x1FADF, So}, {0x1FAE8, 0x1FAE9, So}, {0x1FAF7, 0x1FAF8, So}, {0x1FBCB, 0x1FBEF, So},
    {0x2B739, 0x2B739, Lo}, {0x2EBF0, 0x2EE5D, Lo}, {0x31350, 0x323AF, Lo},
    // clang-format on
};

}  // namespace detail

/// The character that a regular expression is shown for `c`: nearly always `c`.
inline char32_t stand_in_for(char32_t c) {
  if (c < detail::newer_characters[0].first) return c;
  const auto at = std::lower_bound(std::begin(detail::newer_characters), std::end(detail::newer_characters),
                                   c, [](const detail::newer_range& r, char32_t x) { return r.last < x; });
  if (at == std::end(detail::newer_characters) || c < at->first) return c;
  const detail::stand_in s = detail::stand_ins[at->is];
  return c < 0x10000 ? s.three : s.four;
}

/// `text` with stand-ins, in `copy`; or `text` itself where it needs none.  Offsets stay the same.
/// @pre text is UTF-8
inline std::string_view with_stand_ins(std::string_view text, std::string& copy) {
  copy.clear();
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at]);
    if (lead < 0xE0) {  // below U+0800 nothing is newer
      at += lead < 0x80 ? 1 : 2;
      continue;
    }
    const char32_t c = code_point_at(text, at), shown = stand_in_for(c);
    if (shown != c) {
      copy.append(text, done, at - done);
      append_utf8(copy, shown);
      done = at + (lead < 0xF0 ? 3 : 4);
    }
    at += lead < 0xF0 ? 3 : 4;
  }
  if (done == 0) return text;
  copy.append(text, done);
  return copy;
}

}  // namespace dsv4::text
