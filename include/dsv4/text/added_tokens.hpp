// SPDX-License-Identifier: MIT
#pragma once
/// Added tokens: strings that become one token before anything else looks at the text, such as
/// <｜User｜>.  Where several match at a place the longest wins; matches do not overlap.
/// The text is searched twice: first for the tokens that are not `normalized`, then, in what is left, for
/// those that are.  (A normalizer would run in between; DeepSeek has none.)
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bpe.hpp"
#include "regex.hpp"
#include "unicode.hpp"

namespace dsv4::text {

/// As the file's list `added_tokens` has them.
struct added_token {
  token_id id = 0;
  std::string content;
  bool special = false;      ///< decoding may leave it out
  bool normalized = false;   ///< found in the second search
  bool single_word = false;  ///< only where no letter, digit or underscore touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
};

/// One search: a byte trie of the contents.
class token_search {
 public:
  token_search() = default;
  explicit token_search(std::vector<added_token> tokens);

  /// Calls plain(begin, end) for text between tokens and token(id) for each of them, in order.
  /// @pre text is UTF-8
  template <class Plain, class Token>
  void split(std::string_view text, regex_workspace& w, Plain&& plain, Token&& token) const {
    std::size_t done = 0;
    if (!tokens_.empty()) {
      for (std::size_t at = 0; at < text.size();) {
        const auto [index, length] = longest(text, at);
        if (index < 0) {
          ++at;
          continue;
        }
        const added_token& t = tokens_[usize(index)];
        std::size_t begin = at, end = at + length;
        at = end;
        if (t.single_word && (word_before(text, begin, w) || word_after(text, end, w))) continue;
        if (t.lstrip) {
          while (begin > done && is_white_space(code_point_at(text, character_before(text, begin))))
            begin = character_before(text, begin);
          begin = std::max(begin, done);  // white space that the last token took along is not taken twice
        }
        if (t.rstrip) {
          end = std::max(end, done);  // white space up to there: seen for the last token
          while (end < text.size() && is_white_space(code_point_at(text, end)))
            end += usize(step_at(text, end).length);
        }
        if (begin >= end) continue;
        if (done < begin) plain(done, begin);
        token(t.id);
        done = end;
      }
    }
    if (done < text.size()) plain(done, text.size());
  }

 private:
  struct node {
    std::int32_t token = -1;
    std::vector<std::pair<unsigned char, std::int32_t>> next;
  };

  std::int32_t step(std::int32_t at, unsigned char c) const;
  std::int32_t step_or_add(std::int32_t at, unsigned char c);

  /// Index of the longest token at `at` and its bytes; -1 if there is none.
  std::pair<std::int32_t, std::size_t> longest(std::string_view text, std::size_t at) const;

  bool is_word(std::string_view character, regex_workspace& w) const;
  bool word_before(std::string_view text, std::size_t at, regex_workspace& w) const;
  bool word_after(std::string_view text, std::size_t at, regex_workspace& w) const {
    return at < text.size() && is_word(text.substr(at, usize(step_at(text, at).length)), w);
  }

  std::vector<added_token> tokens_;
  std::vector<node> nodes_{1};
  std::array<bool, 256> first_{};
  std::unique_ptr<regex> word_;
};

/// Both searches.
class added_tokens {
 public:
  added_tokens() = default;
  explicit added_tokens(const std::vector<added_token>& all);

  /// Calls plain(std::string_view) and token(id), in order.  @pre text is UTF-8
  template <class Plain, class Token>
  void split(std::string_view text, regex_workspace& w, Plain&& plain, Token&& token) const {
    const auto between = [&](std::size_t begin, std::size_t end) {
      const std::string_view part = text.substr(begin, end - begin);
      second_.split(part, w, [&](std::size_t b, std::size_t e) { plain(part.substr(b, e - b)); }, token);
    };
    first_.split(text, w, between, token);
  }

 private:
  token_search first_, second_;
};

}  // namespace dsv4::text

#if !defined(DSV4_COMPILED)
#include "added_tokens_impl.hpp"
#endif
