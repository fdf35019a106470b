// SPDX-License-Identifier: MIT
#pragma once
/// Engram's own vocabulary: tokens that differ in nothing but case, accents, compatibility forms and blanks count as one.
/// source   Engram, "tokenizer compression"; as released with DeepSeek-V4.1
/// axes     none
/// oracle   golden/engram: normalize.json, normalize.tsv, compress.json
///
///   key = the raw token if its text holds U+FFFD (it is no whole text), else the normalised text, else the text itself
///   compressed id = order of first appearance of the key, over tokens by id
///
/// Normalised: NFKC, then NFD, marks dropped, lower case letter by letter (no rule for final sigma), a run of blank, tab,
/// CR and LF is one blank; white space at both ends is stripped, unless the whole text is one blank.
/// With every mark dropped, neither order nor composition of marks is left to matter: each character becomes what it
/// becomes alone, which is a table (normal_forms.hpp) and, for Hangul, a rule.
/// Texts are code points here; who has bytes decodes them (text/unicode.hpp).
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../core/error.hpp"
#include "normal_forms.hpp"

namespace dsv4::engram {

namespace detail {

/// The table, read once.
class normal_form_table {
 public:
  normal_form_table() {
    char32_t end = 0, last = 0;
    while (at_ < normal_forms.size()) {
      const char32_t first = end + number(), shape = number(), step = 1 + shape % 2, length = shape / 2,
                     size = number();
      std::u32string target;
      for (char32_t i = 0; i < size; ++i) {
        const char32_t folded = number();
        last += folded % 2 ? ~(folded / 2) : folded / 2;
        target += last;
      }
      for (char32_t n = 0; n < length; ++n) {
        forms_.emplace(first + n * step, target);
        if (size == 1) target[0] += step;
      }
      end = first + (length - 1) * step + 1;
    }
  }
  /// Null: the character stays.
  const std::u32string* find(char32_t c) const {
    const auto at = forms_.find(c);
    return at == forms_.end() ? nullptr : &at->second;
  }

 private:
  char32_t number() {
    char32_t n = 0, weight = 1;
    for (;; weight *= 32) {
      const char c = normal_forms[at_++];
      const char32_t digit = static_cast<char32_t>('A' <= c && c <= 'Z'   ? c - 'A'
                                                   : 'a' <= c && c <= 'z' ? c - 'a' + 26
                                                   : '0' <= c && c <= '9' ? c - '0' + 52
                                                   : c == '+'             ? 62
                                                                          : 63);
      n += digit % 32 * weight;
      if (digit < 32) return n;
    }
  }

  std::size_t at_ = 0;
  std::unordered_map<char32_t, std::u32string> forms_;
};

/// A Hangul syllable opens into its two or three letters (The Unicode Standard, section 3.12).
inline bool append_hangul(std::u32string& out, char32_t c) {
  constexpr char32_t first = 0xAC00, leads = 19, vowels = 21, tails = 28;
  constexpr char32_t lead = 0x1100, vowel = 0x1161, tail = 0x11A7;
  if (c < first || c >= first + leads * vowels * tails) return false;
  const char32_t s = c - first;
  out += lead + s / (vowels * tails);
  out += vowel + s / tails % vowels;
  if (s % tails) out += tail + s % tails;
  return true;
}

}  // namespace detail

/// What is stripped from both ends.
inline bool is_stripped(char32_t c) {
  return (0x9 <= c && c <= 0xD) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (0x2000 <= c && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

inline std::u32string normalised(std::u32string_view text) {
  static const detail::normal_form_table table;
  std::u32string all;
  for (const char32_t c : text) {
    if (const std::u32string* form = table.find(c))
      all += *form;
    else if (!detail::append_hangul(all, c))
      all += c;
  }
  std::u32string out;
  bool blank = false;
  for (const char32_t c : all) {
    const bool is_blank = c == ' ' || c == '\t' || c == '\r' || c == '\n';
    if (!is_blank) out += c;
    if (is_blank && !blank) out += U' ';
    blank = is_blank;
  }
  if (out == U" ") return out;
  const auto begin = std::find_if_not(out.begin(), out.end(), is_stripped);
  const auto end = std::find_if_not(out.rbegin(), std::make_reverse_iterator(begin), is_stripped).base();
  std::u32string stripped(begin, end);
  // U+E000 stands for a lone blank inside the released chain, which therefore takes it for one.
  std::replace(stripped.begin(), stripped.end(), char32_t{0xE000}, U' ');
  return stripped;
}

/// Gives each token its compressed id.
class compressed_vocabulary {
 public:
  /// The next token in id order: the vocabulary's own spelling of it, and its text decoded alone.
  std::int32_t add(std::u32string_view raw, std::u32string_view text) {
    std::u32string key(raw);
    if (text.find(U'\uFFFD') == text.npos) {
      key = normalised(text);
      if (key.empty()) key = text;
    }
    const auto id = static_cast<std::int32_t>(seen_.size());
    map_.push_back(seen_.emplace(std::move(key), id).first->second);
    return map_.back();
  }
  /// Compressed ids that there are.
  std::int32_t size() const { return static_cast<std::int32_t>(seen_.size()); }
  /// Token id -> compressed id.
  const std::vector<std::int32_t>& map() const { return map_; }

  /// The multipliers of the hash depend on the number: @throws format_error if it is another than the model's.
  void check(std::int64_t expected) const {
    if (size() != expected)
      throw format_error("engram: the tokenizer has " + std::to_string(size()) +
                         " compressed ids, the model expects " + std::to_string(expected) +
                         " (engram_compressed_vocab_size): it belongs to another tokenizer");
  }

 private:
  std::unordered_map<std::u32string, std::int32_t> seen_;
  std::vector<std::int32_t> map_;
};

}  // namespace dsv4::engram
