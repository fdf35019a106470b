// SPDX-License-Identifier: MIT
#pragma once
/// A prompt as token ids: control segments become special tokens, text never does, whatever it spells.
/// For a prompt whose messages spell no special token these are the ids of tokenizing `p.text` as a whole.
/// @throws unsupported  the tokenizer does not have a special token of the template
#include <cstdint>
#include <vector>

#include "prompt.hpp"
#include "tokenizer.hpp"

namespace dsv4::text {

struct prompt_tokens {
  std::vector<token_id> ids;
  std::vector<std::uint8_t> answer;  ///< 1: of an assistant's message, its end-of-sentence token included
};

inline prompt_tokens tokens_of(const tokenizer& t, const prompt& p) {
  prompt_tokens out;
  for (const prompt_segment& s : p.segments) {
    const std::size_t before = out.ids.size();
    t.encode(s.text, s.control ? special_tokens::allowed : special_tokens::as_text, out.ids);
    if (s.control && out.ids.size() != before + 1)
      throw unsupported("the tokenizer has no token " + s.text + ", which prompts need");
    out.answer.resize(out.ids.size(), s.answer);
  }
  return out;
}

inline std::vector<token_id> prompt_ids(const tokenizer& t, const prompt& p) { return tokens_of(t, p).ids; }

}  // namespace dsv4::text
