// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of tokenizer.hpp.
#include <nlohmann/json.hpp>

#include "../core/config_macros.hpp"
#include "../io/json_fields.hpp"
#include "../io/json_text.hpp"
#include "../io/mapped_file.hpp"
#include "tokenizer.hpp"

namespace dsv4::text {

DSV4_INLINE tokenizer tokenizer::load(const std::filesystem::path& path) {
  std::error_code none;
  const bool folder = std::filesystem::is_directory(path, none);
  const std::filesystem::path file = folder ? path / "tokenizer.json" : path;
  const io::mapped_file text(file);
  tokenizer t = parse(text.text(), file);
  const std::filesystem::path config = file.parent_path() / "tokenizer_config.json";
  if (!std::filesystem::exists(config, none)) return t;
  const io::mapped_file names(config);
  t.read_names(names.text(), config);
  return t;
}

DSV4_INLINE void tokenizer::encode(std::string_view text, special_tokens special,
                                   std::vector<token_id>& out) const {
  std::string valid;
  if (valid_prefix(text) != text.size()) text = valid = repaired(text);
  const lease w(*pool_);
  const auto plain = [&](std::string_view part) {
    pre_tokenizer_.split(part, w->matching, w->shadow, [&](std::size_t begin, std::size_t end) {
      bpe_.encode(part.substr(begin, end - begin), w->merging, out);
    });
  };
  if (special == special_tokens::allowed) {
    added_.split(text, w->matching, plain, [&](token_id id) { out.push_back(id); });
  } else {
    const std::size_t before = out.size();
    plain(text);
    if (!undo_.empty()) undo_added(before, out);
  }
}

DSV4_INLINE std::vector<token_id> tokenizer::encode(std::string_view text, special_tokens special) const {
  std::vector<token_id> out;
  encode(text, special, out);
  return out;
}

DSV4_INLINE std::vector<token_id> tokenizer::encode(std::span<const text_part> parts) const {
  std::vector<token_id> out;
  for (const text_part& s : parts) encode(s.text, s.special, out);
  return out;
}

DSV4_INLINE std::string tokenizer::decode(std::span<const token_id> ids, bool skip_special) const {
  std::string bytes;
  for (const token_id id : ids)
    if (!(skip_special && is_special(id))) bytes += bytes_of(id);
  return repaired(bytes);
}

DSV4_INLINE tokenizer::lease::lease(workspaces& pool) : pool_(pool) {
  {
    const std::lock_guard lock(pool_.mutex);
    if (!pool_.free.empty()) {
      mine_ = std::move(pool_.free.back());
      pool_.free.pop_back();
    }
  }
  if (!mine_) mine_ = std::make_unique<workspace>();
}

DSV4_INLINE tokenizer::lease::~lease() {
  const std::lock_guard lock(pool_.mutex);
  try {
    pool_.free.push_back(std::move(mine_));
  } catch (const std::bad_alloc&) {  // then this workspace is simply gone
  }
}

DSV4_INLINE tokenizer::tokenizer(tokenizer_parts parts)
    : tokens_(std::move(parts.tokens)),
      added_(parts.added),
      pre_tokenizer_(std::move(parts.stages)),
      bpe_(parts.byte_ids, parts.merges),
      before_(std::move(parts.before)),
      after_(std::move(parts.after)),
      special_(tokens_.size()),
      notes_(std::move(parts.notes)),
      pool_(std::make_unique<workspaces>()) {
  std::vector<bool> is_added(tokens_.size());
  for (const added_token& a : parts.added) {
    is_added[usize(a.id)] = true;
    special_[usize(a.id)] = a.special;
  }
  bytes_.reserve(tokens_.size());
  std::unordered_map<std::string, token_id> whole_words;
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const auto id = static_cast<token_id>(i);
    bytes_.push_back(detail::bytes_of_token(tokens_.token(id).value_or("")));
    if (parts.ignore_merges && !is_added[i] && tokens_.token(id)) whole_words.emplace(bytes_.back(), id);
  }
  bpe_.set_whole_words(std::move(whole_words));
  for (const merge_rule& r : parts.merges)
    if (is_added[usize(r.product)]) undo_.insert_or_assign(r.product, std::pair(r.left, r.right));
  bos_ = token_to_id("<｜begin▁of▁sentence｜>");
  eos_ = token_to_id("<｜end▁of▁sentence｜>");
}

DSV4_INLINE void tokenizer::undo_added(std::size_t from, std::vector<token_id>& out) const {
  std::vector<token_id> todo(out.rbegin(), out.rend() - static_cast<std::ptrdiff_t>(from));
  out.resize(from);
  while (!todo.empty()) {
    const token_id id = todo.back();
    todo.pop_back();
    if (const auto made = undo_.find(id); made != undo_.end()) {
      todo.push_back(made->second.second);
      todo.push_back(made->second.first);
    } else {
      out.push_back(id);
    }
  }
}

DSV4_INLINE void tokenizer::read_names(std::string_view text, const std::filesystem::path& file) {
  const auto json = io::parse_json(file, text);
  if (!json.is_object()) io::fail_format(file, "is not a JSON object");
  const auto read = [&](const char* name, std::optional<token_id>& id, bool needed = true) {
    const auto at = json.find(name);
    if (at == json.end() || at->is_null()) return;
    const nlohmann::json& token = at->is_object() && at->contains("content") ? (*at)["content"] : *at;
    if (!token.is_string())
      io::fail_format(
          file, io::in_quotes(name) + ": expected a token, found " + io::detail::json_fields::shown(*at));
    id = token_to_id(token.get_ref<const std::string&>());
    if (id) return;
    const std::string what = io::in_quotes(name) + ": " + io::in_quotes(token.get_ref<const std::string&>()) +
                             " is no token of tokenizer.json";
    if (needed) io::fail_format(file, what);
    notes_.push_back(file.string() + ": " + what + "; nothing is padded here, and it is ignored");
  };
  read("bos_token", bos_);
  read("eos_token", eos_);
  read("pad_token", pad_, false);
}

DSV4_INLINE std::string stream_decoder::push(token_id id) {
  return skip_special_ && tokenizer_->is_special(id) ? std::string() : stream_.push(tokenizer_->bytes_of(id));
}

}  // namespace dsv4::text
