// SPDX-License-Identifier: MIT
#pragma once
/// Which tokens to record: a prompt long enough to cross every boundary that a configuration has, so that
/// bugs that short prompts cannot see are in the bundle (docs/verification.md, rule 4).
///
///   compressor blocks of every ratio (closing, the one after, two of them)   r-1, r, r+1, 2r-1 … 2r+1
///   the window (full, sliding, twice over)                                  W-1, W, W+1, 2W+1
///   the indexer's choice (the first entry that is not chosen)               4k-1 … 4k+4
/// and an end in single-token calls that themselves cross a block boundary of each ratio where they can.
#include <set>
#include <string>
#include <vector>

#include "../../core/config.hpp"

namespace dsv4::golden {

struct position_ladder {
  std::vector<index_t> positions;   ///< all boundaries, rising, below `tokens`
  index_t tokens = 0;               ///< of the prompt with its decode steps
  index_t decode = 0;               ///< single-token calls at the end
  std::vector<std::string> missed;  ///< boundaries that the cap leaves out, for people
};

/// At most `cap` tokens.
inline position_ladder ladder_of(const config& c, index_t cap, index_t decode_wanted = -1) {
  struct boundary {
    index_t at;
    std::string what;
  };
  std::vector<boundary> all{{1, "first tokens"}, {2, "first tokens"}, {3, "first tokens"}};
  const auto add = [&](std::initializer_list<index_t> at, const std::string& what) {
    for (const index_t p : at)
      if (p > 0) all.push_back({p, what});
  };
  const index_t w = c.sliding_window;
  add({w - 1, w, w + 1, 2 * w + 1}, "window of " + std::to_string(w));
  std::set<index_t> ratios;
  for (index_t l = 0; l < c.num_hidden_layers; ++l)
    if (c.ratio(l) > 0) ratios.insert(c.ratio(l));
  for (const index_t r : ratios) {
    add({r - 1, r, r + 1, 2 * r - 1, 2 * r, 2 * r + 1}, "compressor blocks of " + std::to_string(r));
    if (kind_of_ratio(r) != attention_kind::csa) continue;
    const index_t full = c.index_topk * r;
    add({full - 1, full, full + 1, full + r},
        "the indexer's choice of " + std::to_string(c.index_topk) + " entries");
  }

  position_ladder l;
  index_t last = 0;
  for (const boundary& b : all) last = std::max(last, b.at);
  // The decode steps cross a block of each ratio up to 32 tokens; the prompt ends right behind one of the longest.
  constexpr index_t most_decode = 32, least_decode = 8;
  index_t decode = least_decode, longest = 1;
  for (const index_t r : ratios) {
    if (r + 2 <= most_decode) decode = std::max(decode, r + 2);
    longest = std::max(longest, r);
  }
  if (decode_wanted >= 0) decode = decode_wanted;
  l.tokens = (last + 2 + longest - 1) / longest * longest + 2;
  if (l.tokens < last + 2 + decode / 2) l.tokens += longest;
  cap = std::min(cap, c.max_position_embeddings);
  if (l.tokens > cap) l.tokens = cap;
  l.decode = std::min(decode, l.tokens - 1);
  std::set<index_t> inside;
  std::set<std::string> missed;
  for (const boundary& b : all)
    if (b.at < l.tokens)
      inside.insert(b.at);
    else
      missed.insert(b.what + " (position " + std::to_string(b.at) + ")");
  l.positions.assign(inside.begin(), inside.end());
  l.missed.assign(missed.begin(), missed.end());
  return l;
}

/// Token ids from a seed by integers only (splitmix64), so that any engine and language makes the same.
inline std::vector<std::int32_t> ladder_ids(index_t tokens, index_t vocabulary, std::uint64_t seed) {
  std::vector<std::int32_t> ids(usize(tokens));
  std::uint64_t state = seed;
  for (auto& id : ids) {
    std::uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    id = static_cast<std::int32_t>((z ^ (z >> 31)) % static_cast<std::uint64_t>(vocabulary));
  }
  return ids;
}

}  // namespace dsv4::golden
