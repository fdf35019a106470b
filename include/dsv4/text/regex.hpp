// SPDX-License-Identifier: MIT
#pragma once
/// Regular expressions of tokenizer.json, matched by PCRE2 as Oniguruma would match them.
/// The file is written for Oniguruma, the engine of PyPI `tokenizers`.  Both engines agree on the dialect
/// accepted here: literals, classes, general categories \p{..}, \s \S \d \D, alternation, groups, (?i: ),
/// look-around, greedy, lazy and possessive repeats, ^ and $ at every line.  What means something else in
/// each (\w \b \h \v, nested classes, {n,m}+, options, scripts, ...) is refused by name instead of matched
/// differently.  Where only the version of Unicode differs: unicode.hpp, stand-ins.
/// @throws unsupported a construct outside this dialect; a match that takes too many steps
#if !defined(PCRE2_CODE_UNIT_WIDTH)
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "../core/error.hpp"
#include "unicode.hpp"

namespace dsv4::text {

namespace detail {

struct pcre2_free {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};
template <class T>
using pcre2_owned = std::unique_ptr<T, pcre2_free>;

/// Reads a pattern once, and writes it as PCRE2 reads it.
class dialect {
 public:
  explicit dialect(std::string_view pattern) : in_(pattern) {}

  std::string translated() {
    while (at_ < in_.size()) {
      switch (in_[at_]) {
        case '\\': escape(); break;
        case '[': character_class(); break;
        case '(': group(); break;
        case '{': repeat(); break;
        default: out_ += in_[at_++];
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::size_t from, std::size_t length, const char* why = "") const {
    throw unsupported("regular expression, byte " + std::to_string(from) + ": '" +
                      std::string(in_.substr(from, length)) + "' is not implemented" + why);
  }
  bool here(std::string_view s, std::size_t at) const {
    return in_.substr(std::min(at, in_.size()), s.size()) == s;
  }
  void copy(std::size_t n) {
    out_ += in_.substr(at_, n);
    at_ += n;
  }

  static bool general_category(std::string_view name) {
    constexpr std::string_view all =
        " L M N P S Z C Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cn "
        "Co ";
    return !name.empty() && name.size() <= 2 && all.find(" " + std::string(name) + " ") != all.npos;
  }

  /// \n \s \p{Lu} \x{3040} \u3040 and escaped punctuation.
  void escape() {
    const std::size_t from = at_;
    if (from + 1 == in_.size()) refuse(from, 1, " at the end");
    const char c = in_[from + 1];
    if (c == 'p' || c == 'P') {
      const std::size_t close = in_.find('}', from);
      if (!here("{", from + 2) || close == in_.npos) refuse(from, 2, " without {}");
      if (!general_category(in_.substr(from + 3, close - from - 3)))
        refuse(from, std::min<std::size_t>(close + 1 - from, 40),
               ": only general categories such as L or Lu are");
      return copy(close + 1 - from);
    }
    if (c == 'x' || c == 'u') {
      const bool braced = c == 'x' && here("{", from + 2);
      const std::size_t digits = from + (braced ? 3 : 2);
      const std::size_t end = std::min(in_.find_first_not_of("0123456789abcdefABCDEF", digits), in_.size());
      const std::size_t n = braced ? end - digits : std::min<std::size_t>(end - digits, c == 'x' ? 2 : 4);
      const bool whole = braced ? n >= 1 && n <= 6 && here("}", end) : n == (c == 'x' ? 2u : 4u);
      // Without braces Oniguruma takes a byte, PCRE2 a character: the same below 0x80.
      if (!whole || (c == 'x' && !braced && in_[digits] > '7')) refuse(from, 2);
      out_ += "\\x{" + std::string(in_.substr(digits, n)) + "}";
      at_ = digits + n + (braced ? 1 : 0);
      return;
    }
    const auto u = static_cast<unsigned char>(c);
    const bool punctuation = u > 0x20 && u < 0x7F && !is_alphanumeric(c);
    if (!punctuation && std::string_view("nrtfsSdD").find(c) == std::string_view::npos) refuse(from, 2);
    copy(2);
  }

  static bool is_alphanumeric(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  }

  void character_class() {
    const std::size_t from = at_;
    copy(here("[^", from) ? 2 : 1);
    if (here("]", at_)) refuse(from, at_ + 1 - from, ": an empty class");
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '[') refuse(at_, 1, " inside a class: write it as \\[");
      if (here("&&", at_)) refuse(at_, 2, " inside a class");
      in_[at_] == '\\' ? escape() : copy(1);
    }
    if (at_ == in_.size()) refuse(from, 1, ": the class does not end");
    copy(1);
  }

  void group() {
    if (here("(?i:", at_)) return caseless_group();
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"})
      if (here(opening, at_)) return copy(opening.size());
    if (here("(?", at_) || here("(*", at_)) refuse(at_, std::min<std::size_t>(in_.size() - at_, 4));
    copy(1);
  }

  /// (?i:'s|'t): words of ASCII letters.  Oniguruma folds some pairs of letters into one character (ß is
  /// ss), and properties and classes differently.
  void caseless_group() {
    const std::size_t close = std::min(in_.find(')', at_), in_.size() - 1);
    const std::string_view words = in_.substr(at_ + 4, close - at_ - 3);
    std::string lower;
    for (const char c : words) lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    bool plain =
        lower.ends_with(')') && lower.find_first_not_of("abcdefghijklmnopqrstuvwxyz'|") == lower.size() - 1;
    for (const std::string_view folded : {"ss", "ff", "fi", "fl", "st"})
      plain = plain && lower.find(folded) == lower.npos;
    if (!plain)
      refuse(at_, close + 1 - at_, ": (?i: ) holds ASCII letters, ' and | only, and no ss ff fi fl st");
    copy(close + 1 - at_);
  }

  /// {n} {n,} {n,m}, and ? after the last two.
  void repeat() {
    const auto digits = [&](std::size_t at) {
      return std::min(in_.find_first_not_of("0123456789", at), in_.size()) - at;
    };
    const std::size_t from = at_, first = digits(from + 1);
    std::size_t end = from + 1 + first;
    const bool range = here(",", end);
    if (range) end += 1 + digits(end + 1);
    if (first == 0 || !here("}", end)) refuse(from, 1, " that opens no {n}, {n,} or {n,m}");
    if (here("+", end + 1) || (!range && here("?", end + 1))) refuse(from, end + 2 - from);
    copy(end + 1 - from);
  }

  std::string_view in_;
  std::string out_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// The storage one thread needs for matching.
class regex_workspace {
 public:
  regex_workspace()
      : context_(pcre2_match_context_create(nullptr)),
        data_(pcre2_match_data_create(1, nullptr)),
        stack_(pcre2_jit_stack_create(stack_start, stack_limit, nullptr)) {
    if (!context_ || !data_) throw std::bad_alloc();
    pcre2_set_heap_limit(context_.get(), heap_limit);
    if (stack_) pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }

 private:
  friend class regex;
  static constexpr std::size_t stack_start = 32768;    // check: 2**15
  static constexpr std::size_t stack_limit = 4194304;  // check: 2**22
  static constexpr std::uint32_t heap_limit = 262144;  // KiB; check: 2**18
  detail::pcre2_owned<pcre2_match_context> context_;
  detail::pcre2_owned<pcre2_match_data> data_;
  detail::pcre2_owned<pcre2_jit_stack> stack_;
};

/// A compiled pattern.  Matching is const; each thread brings its own workspace.
class regex {
 public:
  struct span {
    std::size_t begin, end;
  };

  /// @throws unsupported the pattern leaves the dialect;  format_error it is no pattern
  static regex compile(std::string_view pattern) { return regex(detail::dialect(pattern).translated(), 0); }
  /// The text itself, nothing in it special.
  static regex literal(std::string_view text) { return regex(std::string(text), PCRE2_LITERAL); }
  /// A pattern of this library, in PCRE2's own dialect.
  static regex own(std::string_view pattern) { return regex(std::string(pattern), 0); }

  /// The first match that begins at `from` or later; false if there is none.  Look-behind sees what stands
  /// before `from`.
  /// @pre subject is UTF-8, from <= its size and at a character
  bool find(std::string_view subject, std::size_t from, regex_workspace& w, span& found) const {
    // A sane pattern takes a few steps per byte of the text; one that backtracks without end is stopped.
    const std::uint64_t steps = least_steps + steps_per_byte * std::uint64_t{subject.size()};
    pcre2_set_match_limit(w.context_.get(),
                          static_cast<std::uint32_t>(std::min<std::uint64_t>(steps, UINT32_MAX)));
    const auto* bytes = reinterpret_cast<PCRE2_SPTR>(subject.data());
    const auto match = [&](std::uint32_t how) {
      return pcre2_match(code_.get(), bytes, subject.size(), from, PCRE2_NO_UTF_CHECK | how, w.data_.get(),
                         w.context_.get());
    };
    int rc = match(0);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = match(PCRE2_NO_JIT);
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc < 0)
      throw unsupported("regular expression '" + pattern_.substr(0, shown) + "': " + message(rc) +
                        " on a text of " + std::to_string(subject.size()) + " bytes");
    const PCRE2_SIZE* at = pcre2_get_ovector_pointer(w.data_.get());
    found = {at[0], at[1]};
    return true;
  }

 private:
  static constexpr std::uint64_t least_steps = 100000, steps_per_byte = 64;
  static constexpr std::size_t shown = 200;  // bytes of a pattern in a message

  regex(std::string pattern, std::uint32_t how) : pattern_(std::move(pattern)) {
    const detail::pcre2_owned<pcre2_compile_context> context(pcre2_compile_context_create(nullptr));
    if (!context) throw std::bad_alloc();
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    if (valid_prefix(pattern_) != pattern_.size()) throw format_error("regular expression: is not UTF-8");
    const std::uint32_t flags = how | PCRE2_UTF | (how & PCRE2_LITERAL ? 0 : PCRE2_UCP | PCRE2_MULTILINE);
    int error = 0;
    PCRE2_SIZE at = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern_.data()), pattern_.size(), flags, &error,
                              &at, context.get()));
    if (!code_)
      throw format_error("regular expression '" + pattern_.substr(0, shown) + "', byte " +
                         std::to_string(at) + ": " + message(error));
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, the interpreter matches
  }

  static std::string message(int error) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(error, text, sizeof text);
    return reinterpret_cast<const char*>(text);
  }

  std::string pattern_;
  detail::pcre2_owned<pcre2_code> code_;
};

}  // namespace dsv4::text
