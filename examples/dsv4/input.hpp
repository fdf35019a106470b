// SPDX-License-Identifier: MIT
#pragma once
/// Token ids from the command line or a file, and the small JSON files beside a checkpoint.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/text/tokenizer.hpp>

#include "commands.hpp"

namespace cli {

/// `argument`: a JSON array or a comma list of token ids, or the name of a file that holds one.
/// Checked against the vocabulary and the context of the model.
/// @throws usage_error        neither a list nor a file; no ids; ids outside the vocabulary; too many
/// @throws dsv4::format_error the file is not there, or holds something else: file, place, expected, found
std::vector<std::int32_t> read_ids(const std::string& argument, const dsv4::config& c);

/// Begin-of-text token, if there is one, and the text's (-: of standard input).  `special`: special tokens in it count.
/// @throws usage_error no tokens; dsv4::format_error the tokenizer has more tokens than the model
std::vector<std::int32_t> read_prompt(const dsv4::text::tokenizer& t, const std::string& prompt, bool special,
                                      const dsv4::config& c);

/// The list of read_ids as integers of any size, checked against nothing.
/// @throws usage_error, dsv4::format_error as above
std::vector<std::int64_t> read_integers(const std::string& argument);

/// "5,1,9" as lengths of calls.  @throws usage_error
std::vector<index_t> parse_chunks(const std::string& text);

/// A checkpoint, a tokenizer; what there is to say about their files goes to stderr.
/// @throws dsv4::format_error, dsv4::unsupported
dsv4::io::checkpoint open_model(const std::filesystem::path& path,
                                const dsv4::io::checkpoint_options& options = {});
dsv4::text::tokenizer open_tokenizer(const std::filesystem::path& path);

/// eos_token_id of generation_config.json, else of config.json, of the directory of a checkpoint: a
/// number or a list; empty if neither names one.  @throws dsv4::format_error
std::vector<std::int32_t> end_of_text_ids(const std::filesystem::path& model);

/// "dsv4_note" of config.json: what whoever talks to this model should know.  @throws dsv4::format_error
std::string note_of(const std::filesystem::path& model);

}  // namespace cli
