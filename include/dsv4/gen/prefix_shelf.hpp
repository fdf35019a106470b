// SPDX-License-Identifier: MIT
#pragma once
/// Stored prefixes (prefix_cache.hpp) of many prompts, up to so many bytes; what was not used for longest goes first.
/// @post (1) bytes() <= the limit
///       (2) no prefix is the beginning of another
#include <list>
#include <memory>

#include "prefix_cache.hpp"

namespace dsv4 {

template <numerics_policy P>
class prefix_shelf {
 public:
  using prefix = std::shared_ptr<const stored_prefix<P>>;

  explicit prefix_shelf(index_t most_bytes) : most_bytes_(most_bytes) {}

  /// The one that saves most tokens of the prompt; null if none saves any.
  prefix find(std::span<const std::int32_t> prompt) {
    auto best = kept_.end();
    index_t spared = 0;
    for (auto p = kept_.begin(); p != kept_.end(); ++p)
      if (const index_t from = (*p)->plan(prompt).from; from > spared) best = p, spared = from;
    if (best == kept_.end()) return nullptr;
    kept_.splice(kept_.begin(), kept_, best);
    return kept_.front();
  }
  /// Without memory for it nothing has changed.
  void put(stored_prefix<P> fresh) {
    std::list<prefix> node;
    node.push_front(std::make_shared<const stored_prefix<P>>(std::move(fresh)));
    const stored_prefix<P>& kept = *node.front();
    const auto begins = [](std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
      return a.size() <= b.size() && std::equal(a.begin(), a.end(), b.begin());
    };
    for (auto p = kept_.begin(); p != kept_.end();) {
      if (begins(kept.ids(), (*p)->ids())) return kept_.splice(kept_.begin(), kept_, p);
      if (begins((*p)->ids(), kept.ids())) {
        bytes_ -= (*p)->bytes();
        p = kept_.erase(p);
      } else {
        ++p;
      }
    }
    bytes_ += kept.bytes();
    kept_.splice(kept_.begin(), node);
    while (bytes_ > most_bytes_) {
      bytes_ -= kept_.back()->bytes();
      kept_.pop_back();
    }
  }

  index_t bytes() const { return bytes_; }
  /// The last used first.
  const std::list<prefix>& all() const { return kept_; }

 private:
  index_t most_bytes_, bytes_ = 0;
  std::list<prefix> kept_;
};

}  // namespace dsv4
