// SPDX-License-Identifier: MIT
#pragma once
/// Cutting text into the words that BPE merges within; no merge crosses a cut.
/// A pre-tokenizer is a list of stages.  Each stage cuts every piece of the stage before, seeing that
/// piece alone: look-ahead ends at its end.  A stage's pattern divides a piece into matches and what
/// lies between them; `split_behavior` says which neighbours stay together.
///
/// DeepSeek-V3 and V4 have three stages, all `isolated`: numbers of one to three digits, runs of Han and
/// kana, and then words: letters with one character before them, punctuation, line ends, spaces.
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "regex.hpp"
#include "unicode.hpp"

namespace dsv4::text {

/// How the spans of a stage, matches (M) and the rest (R), become pieces.
enum class split_behavior {
  isolated,              ///< each span is a piece
  removed,               ///< each R is a piece, the matches are dropped
  merged_with_previous,  ///< R M is one piece
  merged_with_next,      ///< M R is one piece
  contiguous,            ///< equal neighbours are one piece: M M, R R
};

struct split_stage {
  regex pattern;
  split_behavior behavior = split_behavior::isolated;
  bool invert = false;  ///< matches and the rest change roles
};

/// The words of GPT-2, which ByteLevel cuts when `use_regex` is on.
inline constexpr std::string_view gpt2_words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class pre_tokenizer {
 public:
  pre_tokenizer() = default;
  explicit pre_tokenizer(std::vector<split_stage> stages) : stages_(std::move(stages)) {}

  /// Calls word(begin, end) for every piece that is not empty, in order: byte offsets into `text`.
  /// @pre text is UTF-8; shadow is storage of the caller, valid during the call
  template <class Word>
  void split(std::string_view text, regex_workspace& w, std::string& shadow, Word&& word) const {
    const std::string_view seen = stages_.empty() ? text : with_stand_ins(text, shadow);
    run(0, seen, {0, seen.size()}, w, word);
  }

 private:
  using span = regex::span;

  template <class Word>
  void run(std::size_t stage, std::string_view seen, span piece, regex_workspace& w, Word& word) const {
    if (piece.begin == piece.end) return;
    if (stage == stages_.size()) return word(piece.begin, piece.end);
    const split_stage& s = stages_[stage];

    // One span waits: the next one may join it.
    span waiting{};
    bool any = false, waiting_matched = false;
    const auto emit = [&] {
      if (any) run(stage + 1, seen, waiting, w, word);
    };
    for_each_span(s, seen.substr(piece.begin, piece.end - piece.begin), w, [&](span found, bool matched) {
      if (s.behavior == split_behavior::removed && matched) return;
      found = {piece.begin + found.begin, piece.begin + found.end};
      if (any && joins(s.behavior, waiting_matched, matched)) {
        waiting.end = found.end;
      } else {
        emit();
        waiting = found;
      }
      any = true;
      waiting_matched = matched;
    });
    emit();
  }

  static bool joins(split_behavior b, bool left_matched, bool right_matched) {
    switch (b) {
      case split_behavior::isolated:
      case split_behavior::removed: return false;
      case split_behavior::merged_with_previous: return !left_matched && right_matched;
      case split_behavior::merged_with_next: return left_matched && !right_matched;
      case split_behavior::contiguous: return left_matched == right_matched;
    }
    return false;
  }

  /// The matches of a piece and what lies between them, in order.
  template <class Span>
  static void for_each_span(const split_stage& s, std::string_view piece, regex_workspace& w, Span&& take) {
    std::size_t from = 0, done = 0;
    bool first = true;
    for (span m; from <= piece.size() && s.pattern.find(piece, from, w, m);) {
      // An empty match where the last match ended is passed over, and the search goes on one character later.
      if (m.begin == m.end && !first && m.end == done) {
        if (from == piece.size()) break;
        from += usize(step_at(piece, from).length);
        continue;
      }
      if (done != m.begin) take(span{done, m.begin}, s.invert);
      take(m, !s.invert);
      from = done = m.end;
      first = false;
    }
    if (done != piece.size()) take(span{done, piece.size()}, s.invert);
  }

  std::vector<split_stage> stages_;
};

}  // namespace dsv4::text
