// SPDX-License-Identifier: MIT
#pragma once
/// What the tests of the tokenizer share: the small trained one, and tokenizer.json files made by hand.
#include <dsv4/io/mapped_file.hpp>
#include <dsv4/text/tokenizer.hpp>
#include <nlohmann/json.hpp>

#include "data.hpp"

namespace dsv4::text {

using ids = std::vector<token_id>;
using pieces = std::vector<std::string>;

inline const tokenizer& trained() {
  static const tokenizer t = tokenizer::load(test_data("text/tokenizer.json"));
  return t;
}

/// A tokenizer.json of the 256 bytes, ids in byte order, without merges; one stage per pattern.
inline nlohmann::json bytes_only(const std::vector<std::string>& patterns = {}) {
  using nlohmann::json;
  json file{{"model", {{"type", "BPE"}, {"vocab", json::object()}, {"merges", json::array()}}},
            {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json::array()}}},
            {"decoder", {{"type", "ByteLevel"}}},
            {"added_tokens", json::array()}};
  for (int b = 0; b < 256; ++b) {
    std::string character;
    append_utf8(character, byte_level.character(static_cast<unsigned char>(b)));
    file["model"]["vocab"][character] = b;
  }
  json& stages = file["pre_tokenizer"]["pretokenizers"];
  for (const std::string& p : patterns)
    stages.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", p}}}, {"behavior", "Isolated"}, {"invert", false}});
  stages.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  return file;
}

/// Adds a token and the merge that makes it.
inline void add_merge(nlohmann::json& file, const std::string& left, const std::string& right) {
  auto& model = file["model"];
  if (!model["vocab"].contains(left + right)) model["vocab"][left + right] = model["vocab"].size();
  model["merges"].push_back(left + " " + right);
}

inline void add_token(nlohmann::json& file, token_id id, const std::string& content,
                      const nlohmann::json& flags = nlohmann::json::object()) {
  nlohmann::json token{{"id", id}, {"content", content}, {"special", false}, {"normalized", false}};
  token.update(flags);
  file["added_tokens"].push_back(token);
}

inline tokenizer parse(const nlohmann::json& file) { return tokenizer::parse(file.dump(), "t.json"); }

/// The texts of the tokens.
inline pieces pieces_of(const tokenizer& t, std::string_view text,
                        special_tokens how = special_tokens::as_text) {
  pieces out;
  for (const token_id id : t.encode(text, how)) out.emplace_back(t.bytes_of(id));
  return out;
}

/// Where a list of stages cuts.
inline pieces cut(const pre_tokenizer& p, std::string_view text) {
  regex_workspace w;
  std::string shadow;
  pieces out;
  p.split(text, w, shadow,
          [&](std::size_t begin, std::size_t end) { out.emplace_back(text.substr(begin, end - begin)); });
  return out;
}
inline pieces cut(const std::string& pattern, split_behavior b, std::string_view text, bool invert = false) {
  std::vector<split_stage> stages;
  stages.push_back({regex::compile(pattern), b, invert});
  return cut(pre_tokenizer(std::move(stages)), text);
}

}  // namespace dsv4::text
