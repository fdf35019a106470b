// SPDX-License-Identifier: MIT
#include "input.hpp"

#include <charconv>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <sstream>
#include <string_view>

#include <nlohmann/json.hpp>

#include <dsv4/core/error.hpp>
#include <dsv4/io/json_text.hpp>
#include <dsv4/io/message.hpp>

namespace cli {
namespace {

namespace fs = std::filesystem;

/// What is wrong with a text, and where; the caller knows whether it came from a file.
struct bad_text {
  std::size_t offset;
  std::string expected, found;
};

std::string shown(std::string_view text, std::size_t at) {
  if (at >= text.size()) return "the end";
  const std::string_view rest = text.substr(at, 20);
  const std::size_t end = rest.find_first_of(" \t\r\n,]");
  return dsv4::io::in_quotes(std::string(rest.substr(0, end == 0 ? 1 : end)));
}

/// Integers separated by commas or white space, in brackets or not.
std::vector<std::int64_t> parse_integers(std::string_view text) {
  std::vector<std::int64_t> out;
  std::size_t at = 0;
  const auto skip = [&] { at = std::min(text.find_first_not_of(" \t\r\n", at), text.size()); };
  skip();
  const bool array = at < text.size() && text[at] == '[';
  if (array) ++at;
  skip();
  const auto ends = [&] { return array ? at < text.size() && text[at] == ']' : at == text.size(); };
  while (!ends()) {
    std::int64_t value = 0;
    const auto [rest, fault] = std::from_chars(text.data() + at, text.data() + text.size(), value);
    const std::size_t next = static_cast<std::size_t>(rest - text.data());
    const bool whole =
        next == text.size() || std::string_view(" \t\r\n,]").find(text[next]) != std::string_view::npos;
    if (fault != std::errc{} || !whole) throw bad_text{at, "a token id (an integer)", shown(text, at)};
    out.push_back(value);
    at = next;
    skip();
    if (ends()) break;
    if (at < text.size() && text[at] == ',') {
      ++at;
      skip();
      if (ends()) throw bad_text{at, "a token id after the comma", shown(text, at)};
    } else if (array) {
      throw bad_text{at, "',' or ']'", shown(text, at)};
    }
  }
  if (array) {
    ++at;
    skip();
    if (at != text.size()) throw bad_text{at, "nothing after the list", shown(text, at)};
  }
  return out;
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (!file) dsv4::io::fail_format(path, "cannot be read");
  return std::move(text).str();
}

/// Where the small files of a checkpoint are.
fs::path folder_of(const fs::path& model) {
  std::error_code none;
  return fs::is_directory(model, none) ? model : model.parent_path();
}

/// A field of a JSON file; null if there is no such file or field.
nlohmann::json field_of(const fs::path& path, const char* name) {
  std::error_code none;
  if (!fs::exists(path, none)) return nullptr;
  const auto json = dsv4::io::parse_json(path, read_text(path));
  if (!json.is_object()) dsv4::io::fail_format(path, "is not a JSON object");
  return json.value(name, nlohmann::json());
}

}  // namespace

std::vector<std::int64_t> read_integers(const std::string& argument) {
  std::error_code none;
  // Nothing but digits and punctuation is a list, whatever files there are.
  const bool list = argument.find_first_not_of("0123456789,[] \t\r\n-+") == std::string::npos;
  if (!list && std::filesystem::exists(argument, none)) {
    if (std::filesystem::is_directory(argument, none))
      dsv4::io::fail_format(argument, "is a directory, expected a file of token ids");
    const std::string text = read_text(argument);
    try {
      return parse_integers(text);
    } catch (const bad_text& e) {
      dsv4::io::fail_format(
          argument, "byte " + std::to_string(e.offset) + ": expected " + e.expected + ", found " + e.found);
    }
  }
  if (!list && argument.find_first_of("./") != std::string::npos && argument.find(',') == std::string::npos)
    dsv4::io::fail_format(argument, "does not exist (--ids takes a file, or a list like 1,5,9)");
  try {
    return parse_integers(argument);
  } catch (const bad_text& e) {
    throw usage_error("--ids: no file of that name, and as a list: character " +
                      std::to_string(e.offset + 1) + ": expected " + e.expected + ", found " + e.found);
  }
}

std::vector<std::int32_t> read_prompt(const dsv4::text::tokenizer& t, const std::string& prompt, bool special,
                                      const dsv4::config& c) {
  using dsv4::text::special_tokens;
  if (t.vocab_size() > c.vocab_size)
    throw dsv4::format_error("the tokenizer has " + std::to_string(t.vocab_size()) +
                             " tokens, the model only " + std::to_string(c.vocab_size));
  const std::string text = prompt == "-" ? std::string(std::istreambuf_iterator<char>(std::cin), {}) : prompt;
  std::vector<std::int32_t> ids;
  t.encode(text, special ? special_tokens::allowed : special_tokens::as_text, ids);
  if (t.bos() && (ids.empty() || ids.front() != *t.bos())) ids.insert(ids.begin(), *t.bos());
  if (ids.empty()) throw usage_error("--prompt: no tokens");
  return ids;
}

std::vector<std::int32_t> read_ids(const std::string& argument, const dsv4::config& c) {
  const std::vector<std::int64_t> all = read_integers(argument);
  if (all.empty())
    throw usage_error("--ids: no token ids in " + (argument.empty() ? "an empty text" : argument));
  if (static_cast<index_t>(all.size()) > c.max_position_embeddings)
    throw usage_error("--ids: found " + std::to_string(all.size()) + " tokens, expected at most " +
                      std::to_string(c.max_position_embeddings) + " (max_position_embeddings of the model)");
  std::vector<std::int32_t> ids;
  ids.reserve(all.size());
  for (const std::int64_t id : all) {
    if (id < 0 || id >= c.vocab_size)
      throw usage_error("--ids: found token id " + std::to_string(id) + " at position " +
                        std::to_string(ids.size()) + ", expected 0 to " + std::to_string(c.vocab_size - 1) +
                        " (the vocabulary of the model)");
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

std::vector<index_t> parse_chunks(const std::string& text) {
  try {
    const auto out = parse_integers(text);
    for (const index_t n : out)
      if (n < 1) throw usage_error("--chunks: found length " + std::to_string(n) + ", expected 1 or more");
    if (out.empty()) throw usage_error("--chunks: no lengths");
    return {out.begin(), out.end()};
  } catch (const bad_text& e) {
    throw usage_error("--chunks: expected lengths like 5,1,9, found " + e.found);
  }
}

namespace {
void tell(const std::vector<std::string>& notes) {
  for (const std::string& note : notes) std::fprintf(stderr, "Note: %s\n", note.c_str());
}
}  // namespace

dsv4::io::checkpoint open_model(const fs::path& path, const dsv4::io::checkpoint_options& options) {
  auto opened = dsv4::io::checkpoint::open(path, options);
  tell(opened.notes());
  return opened;
}

dsv4::text::tokenizer open_tokenizer(const fs::path& path) {
  auto opened = dsv4::text::tokenizer::load(path);
  tell(opened.notes());
  return opened;
}

std::vector<std::int32_t> end_of_text_ids(const fs::path& model) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    const fs::path path = folder_of(model) / name;
    const nlohmann::json value = field_of(path, "eos_token_id");
    if (value.is_null()) continue;
    std::vector<std::int32_t> ids;
    for (const auto& id : value.is_array() ? value : nlohmann::json::array({value})) {
      if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<std::int32_t>::max())
        dsv4::io::fail_format(
            path, "field 'eos_token_id': expected a token id or a list of them, found " + value.dump());
      ids.push_back(id.get<std::int32_t>());
    }
    return ids;
  }
  return {};
}

std::string note_of(const fs::path& model) {
  const nlohmann::json value = field_of(folder_of(model) / "config.json", "dsv4_note");
  std::string note = value.is_string() ? value.get<std::string>() : "";
  for (char& c : note)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';  // it goes to a terminal
  return note;
}

}  // namespace cli
