// SPDX-License-Identifier: MIT
#pragma once
/// tokenizer.json of the hub (Hugging Face `tokenizers`), as the parts of a byte-level BPE tokenizer.
/// Implemented is what DeepSeek's file has, and its neighbours:
///   model           BPE; merges as "a b" or ["a", "b"]; ignore_merges
///   pre_tokenizer   Split (Regex or String, every behaviour, invert), Sequence, ByteLevel at the end
///   normalizer      none;   decoder  ByteLevel;   post_processor  ByteLevel, TemplateProcessing, Sequence
///   added_tokens    all flags
/// Anything else is refused by name.
/// @throws format_error the file contradicts itself or is damaged: file, place, expected, found
/// @throws unsupported  a valid file that needs what is not implemented
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../core/config_macros.hpp"
#include "added_tokens.hpp"
#include "bpe.hpp"
#include "pre_tokenizer.hpp"
#include "token_list.hpp"

namespace dsv4::text {

/// What tokenizer.json says.
struct tokenizer_parts {
  token_list tokens;
  std::array<token_id, 256> byte_ids{};  ///< -1 for the bytes that UTF-8 never has, if they have no token
  std::vector<merge_rule> merges;
  bool ignore_merges = false;
  std::vector<added_token> added;
  std::vector<split_stage> stages;
  std::vector<token_id> before, after;  ///< what TemplateProcessing puts around a text
  std::vector<std::string> notes;       ///< what the file asks for and cannot matter here
};

namespace detail {
/// The bytes that a token stands for; its own text if a character of it stands for none.
std::string bytes_of_token(std::string_view token);
}  // namespace detail

/// The parts of a tokenizer.json; `file` is for the messages.
tokenizer_parts read_tokenizer_json(const std::filesystem::path& file, std::string_view text);

}  // namespace dsv4::text

#if !defined(DSV4_COMPILED)
#include "tokenizer_json_impl.hpp"
#endif
