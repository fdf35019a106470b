// SPDX-License-Identifier: MIT
#pragma once
/// The ids of a conversation so far, and how often each is among the last of them: what penalties count.
/// Ids come and go at the end (drafts that are not accepted, a conversation that is taken back), in O(1).
#include <algorithm>

#include "sampling.hpp"

namespace dsv4 {

class token_history {
 public:
  /// window: count() looks at that many last ids, 0 for all; room for max_tokens without allocation.
  token_history(index_t vocabulary, index_t window, index_t max_tokens)
      : window_(window), count_(static_cast<std::size_t>(vocabulary)) {
    ids_.reserve(static_cast<std::size_t>(max_tokens));
  }

  std::span<const std::int32_t> ids() const { return ids_; }
  index_t size() const { return static_cast<index_t>(ids_.size()); }
  /// How often `id` is among the last `window`.
  index_t count(index_t id) const { return count_[static_cast<std::size_t>(id)]; }

  /// @throws contract_violation for an id outside the vocabulary
  void push(std::int32_t id) {
    expects_in(id, 0, static_cast<index_t>(count_.size()), "sampler: token id");
    if (full()) --count_[leaving()];
    ids_.push_back(id);
    ++count_[static_cast<std::size_t>(id)];
  }
  void pop() {
    --count_[static_cast<std::size_t>(ids_.back())];
    ids_.pop_back();
    if (full()) ++count_[leaving()];
  }
  /// These ids and no others; all or nothing.  @throws as push()
  void assign(std::span<const std::int32_t> ids) {
    for (const std::int32_t id : ids)
      expects_in(id, 0, static_cast<index_t>(count_.size()), "sampler: token id");
    ids_.reserve(ids.size());
    truncate(0);
    for (const std::int32_t id : ids) push(id);
  }
  /// Take back all but the first `length` ids.
  void truncate(index_t length) {
    while (size() > length) pop();
  }

 private:
  /// Whether the window is full, so that a new id pushes one out.
  bool full() const { return window_ > 0 && size() >= window_; }
  std::size_t leaving() const {
    return static_cast<std::size_t>(ids_[ids_.size() - static_cast<std::size_t>(window_)]);
  }

  index_t window_;
  std::vector<index_t> count_;  // [v]
  std::vector<std::int32_t> ids_;
};

}  // namespace dsv4
