// SPDX-License-Identifier: MIT
#pragma once
/// A prompt as token ids: control segments become special tokens, text never does, whatever it spells.
/// For a prompt whose messages spell no special token these are the ids of tokenizing `p.text` as a whole.
/// @throws unsupported  the tokenizer does not have a special token of the template
#include <vector>

#include "prompt.hpp"
#include "tokenizer.hpp"

namespace dsv4::text {

inline std::vector<token_id> prompt_ids(const tokenizer& t, const prompt& p) {
  std::vector<token_id> out;
  for (const prompt_segment& s : p.segments) {
    const std::size_t before = out.size();
    t.encode(s.text, s.control ? special_tokens::allowed : special_tokens::as_text, out);
    if (s.control && out.size() != before + 1)
      throw unsupported("the tokenizer has no token " + s.text + ", which prompts need");
  }
  return out;
}

}  // namespace dsv4::text
