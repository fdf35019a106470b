// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of added_tokens.hpp.
#include "../core/config_macros.hpp"
#include "added_tokens.hpp"

namespace dsv4::text {

DSV4_INLINE token_search::token_search(std::vector<added_token> tokens) : tokens_(std::move(tokens)) {
  bool words = false;
  for (std::size_t t = 0; t < tokens_.size(); ++t) {
    std::int32_t at = 0;
    for (const char c : tokens_[t].content) at = step_or_add(at, static_cast<unsigned char>(c));
    nodes_[usize(at)].token = static_cast<std::int32_t>(t);
    first_[static_cast<unsigned char>(tokens_[t].content.front())] = true;
    words = words || tokens_[t].single_word;
  }
  // \w of Rust's regex crate, which decides this question in PyPI `tokenizers`.
  if (words)
    word_ = std::make_unique<regex>(regex::own(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])"));
}

DSV4_INLINE std::int32_t token_search::step(std::int32_t at, unsigned char c) const {
  for (const auto& [byte, to] : nodes_[usize(at)].next)
    if (byte == c) return to;
  return -1;
}

DSV4_INLINE std::int32_t token_search::step_or_add(std::int32_t at, unsigned char c) {
  if (const std::int32_t to = step(at, c); to >= 0) return to;
  const auto to = static_cast<std::int32_t>(nodes_.size());
  nodes_.emplace_back();
  nodes_[usize(at)].next.emplace_back(c, to);
  return to;
}

DSV4_INLINE std::pair<std::int32_t, std::size_t> token_search::longest(std::string_view text,
                                                                       std::size_t at) const {
  std::pair<std::int32_t, std::size_t> best{-1, 0};
  if (!first_[static_cast<unsigned char>(text[at])]) return best;
  std::int32_t place = 0;
  for (std::size_t k = at; k < text.size(); ++k) {
    place = step(place, static_cast<unsigned char>(text[k]));
    if (place < 0) break;
    if (const std::int32_t t = nodes_[usize(place)].token; t >= 0) best = {t, k + 1 - at};
  }
  return best;
}

DSV4_INLINE bool token_search::is_word(std::string_view character, regex_workspace& w) const {
  std::string shadow;
  regex::span found;
  return word_->find(with_stand_ins(character, shadow), 0, w, found);
}

DSV4_INLINE bool token_search::word_before(std::string_view text, std::size_t at, regex_workspace& w) const {
  if (at == 0) return false;
  const std::size_t from = character_before(text, at);
  return is_word(text.substr(from, at - from), w);
}

DSV4_INLINE added_tokens::added_tokens(const std::vector<added_token>& all) {
  std::vector<added_token> halves[2];
  for (const added_token& t : all) halves[t.normalized].push_back(t);
  first_ = token_search(std::move(halves[false]));
  second_ = token_search(std::move(halves[true]));
}

}  // namespace dsv4::text
