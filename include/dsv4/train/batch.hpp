// SPDX-License-Identifier: MIT
#pragma once
/// What one training step reads: tokens of many samples side by side, and where each sample begins.
/// @paper{DSV4, section 4.1: packed documents with a sample-level mask}
/// axes     t token (of all samples) · s compressed entry (of all samples)
/// oracle   each sample run alone
/// deviates none
///
/// Attention, windows, compression and positions start anew in every sample; the last tokens of a sample that do
/// not fill a block become no entry.
#include <algorithm>
#include <string>
#include <vector>

#include "../core/config.hpp"
#include "../core/contract.hpp"

namespace dsv4::train {

struct batch {
  std::vector<std::int32_t> ids;      // [t]
  std::vector<std::int32_t> targets;  // [t] the token after it, -1: no loss here
  std::vector<index_t> begins;        // first token of each sample, then t

  index_t tokens() const { return static_cast<index_t>(ids.size()); }
  index_t samples() const { return static_cast<index_t>(begins.size()) - 1; }
  index_t begin(index_t i) const { return begins[usize(i)]; }
  index_t end(index_t i) const { return begins[usize(i) + 1]; }
  index_t length(index_t i) const { return end(i) - begin(i); }

  /// One sample that predicts each of its tokens but the first.
  static batch of(std::vector<std::int32_t> ids) {
    batch b{ids, {}, {0, static_cast<index_t>(ids.size())}};
    b.targets.assign(ids.begin() + (ids.empty() ? 0 : 1), ids.end());
    if (!ids.empty()) b.targets.push_back(-1);
    return b;
  }

  /// @throws contract_violation what no step can run on
  void check(const config& c) const {
    expects(!ids.empty(), "batch: no tokens");
    expects_equal(static_cast<index_t>(targets.size()), tokens(), "batch: targets against ids");
    expects(begins.size() >= 2 && begins.front() == 0 && begins.back() == tokens(),
            "batch: begins must run from 0 to the number of tokens");
    for (index_t i = 0; i < samples(); ++i)
      expects(begin(i) < end(i), "batch: sample " + std::to_string(i) + " is empty");
    for (const std::int32_t id : ids) expects_in(id, 0, c.vocab_size, "batch: token id");
    for (const std::int32_t id : targets) expects_in(id, -1, c.vocab_size, "batch: target");
  }
};

/// Position of every token in its sample.
inline std::vector<index_t> positions(const batch& b) {
  std::vector<index_t> p(b.ids.size());
  for (index_t i = 0; i < b.samples(); ++i)
    for (index_t t = b.begin(i); t < b.end(i); ++t) p[usize(t)] = t - b.begin(i);
  return p;
}

/// The compressed entries of all samples, for one compression ratio.
struct entry_map {
  index_t ratio = 0;
  std::vector<index_t> offsets;   // [samples + 1] first entry of each sample
  std::vector<index_t> first;     // [s] the token (of the batch) its block begins with
  std::vector<index_t> position;  // [s] of that token in its sample

  entry_map() = default;
  entry_map(const batch& b, index_t tokens_per_entry) : ratio(tokens_per_entry), offsets{0} {
    for (index_t i = 0; i < b.samples(); ++i) {
      for (index_t p = 0; p + ratio <= b.length(i); p += ratio) {
        first.push_back(b.begin(i) + p);
        position.push_back(p);
      }
      offsets.push_back(static_cast<index_t>(first.size()));
    }
  }
  index_t size() const { return static_cast<index_t>(first.size()); }
  index_t begin(index_t sample) const { return offsets[usize(sample)]; }
  index_t count(index_t sample) const { return offsets[usize(sample) + 1] - begin(sample); }
};

/// Entries that the query at `position` of a sample can see: those whose block is closed.
inline index_t visible_entries(index_t position, index_t ratio) { return (position + 1) / ratio; }

}  // namespace dsv4::train
