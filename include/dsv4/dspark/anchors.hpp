// SPDX-License-Identifier: MIT
#pragma once
/// Where in a sequence of the training set a drafter drafts, what it must say there, and what it sees.
/// source   DSpark; as DeepSpec trains it
/// axes     s position · k slot of a block
/// oracle   golden/dspark/anchors.safetensors, v41_train.safetensors
///
///   anchor i: its token and the next count      block: [token i, noise, noise, ...] at positions i, i + 1, ...
///   slot k says token i + 1 + k; it counts while that and all before it lie inside and count
///   it sees the context at positions before i, and all slots of its own block
///
/// A block that found no anchor is a dummy: position 0, all noise, counts nowhere.
#include <algorithm>
#include <cstdint>

#include "../core/contract.hpp"
#include "../core/view.hpp"

namespace dsv4::dspark {

/// Whether a block may begin at position i.  counted [s]: tokens that the loss knows.
inline bool may_anchor(view<const std::uint8_t, 1> counted /*[s]*/, index_t i) {
  return i + 1 < counted.extent(0) && counted[i] && counted[i + 1];
}

/// A drafted block of a training sequence.
struct training_block {
  index_t anchor = 0;
  bool kept = true;  ///< no dummy

  /// Where in a sequence of `length` the token stands that slot k must say; the last position for what lies outside.
  index_t label(index_t k, index_t length) const {
    return kept ? std::min(anchor + 1 + k, length - 1) : index_t{0};
  }
  /// Whether each slot counts.
  void evaluated(view<const std::uint8_t, 1> counted /*[s]*/, view<std::uint8_t, 1> out /*[k]*/) const {
    bool all = kept;
    for (index_t k = 0; k < out.extent(0); ++k) {
      const index_t at = anchor + 1 + k;
      all = all && at < counted.extent(0) && counted[at];
      out[k] = all;
    }
  }
  /// What the drafter reads: the anchor, then noise.
  void input(view<const std::int32_t, 1> ids /*[s]*/, std::int32_t noise,
             view<std::int32_t, 1> out /*[k]*/) const {
    std::fill_n(out.data(), out.extent(0), noise);
    if (!kept) return;
    expects_in(anchor, 0, ids.extent(0), "training_block: anchor");
    out[0] = ids[anchor];
  }
  /// The token before slot k: what the Markov head follows.  In training it is the true one.
  std::int32_t previous(view<const std::int32_t, 1> ids /*[s]*/, index_t k) const {
    return k == 0 ? ids[anchor] : ids[label(k - 1, ids.extent(0))];
  }
  /// Context positions [first, anchor) that the block sees.  window: 0 means all.
  index_t first_seen(index_t window) const {
    return window == 0 ? index_t{0} : std::max(index_t{0}, anchor - window);
  }
  index_t end_seen() const { return kept ? anchor : first_seen(0); }
};

}  // namespace dsv4::dspark
