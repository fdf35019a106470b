// SPDX-License-Identifier: MIT
#pragma once
/// The vocabulary of a tokenizer: token <-> id.
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../core/view.hpp"
#include "bpe.hpp"

namespace dsv4::text {

/// Tokens by id and ids by token, as the file writes them.
class token_list {
 public:
  token_list() = default;
  token_list(token_list&&) = default;  // the map's keys point into by_id_, which a move keeps where it is
  token_list& operator=(token_list&&) = default;

  explicit token_list(std::size_t ids) : by_id_(ids) { ids_.reserve(ids); }
  /// False if the id or the token is taken.  @pre id < ids
  bool add(std::string token, token_id id) {
    std::optional<std::string>& place = by_id_[usize(id)];
    if (place || ids_.count(token)) return false;
    place = std::move(token);
    ids_.emplace(*place, id);
    return true;
  }
  /// Ids are below this; some may have no token.
  std::size_t size() const { return by_id_.size(); }
  std::optional<std::string_view> token(token_id id) const {
    if (id < 0 || usize(id) >= by_id_.size()) return std::nullopt;
    const auto& t = by_id_[usize(id)];
    return t ? std::optional<std::string_view>(*t) : std::nullopt;
  }
  std::optional<token_id> id(std::string_view token) const {
    const auto at = ids_.find(token);
    return at == ids_.end() ? std::nullopt : std::optional(at->second);
  }

 private:
  std::vector<std::optional<std::string>> by_id_;
  std::unordered_map<std::string_view, token_id> ids_;
};

}  // namespace dsv4::text
