// SPDX-License-Identifier: MIT
#pragma once
/// Drafted tokens and the rule that judges them.
/// @paper{DSV4, section 2.1 (as DeepSeek-V3, section 5.4.3); the rule: Leviathan, Kalman, Matias, ICML 2023, Algorithm 1}
/// axes     v vocabulary
///
/// A draft x was drawn from q, the model says p.  Keep x with probability min(1, p[x] / q[x]), else take a
/// token from max(p - q, 0) / its sum.  Then token y comes with probability
///   min(q[y], p[y]) + (1 - sum_x min(q[x], p[x])) max(p[y] - q[y], 0) / sum_x max(p[x] - q[x], 0) = p[y],
/// because the two sums over x add up to 1: whatever the drafter does, only speed depends on it.
/// Greedy is the case where p is one token: the draft is kept if it is that one.
#include "sampler.hpp"

namespace dsv4 {

/// The drafts of one call: up to `depth` ids, each with the distribution it was drawn from.
class draft_list {
 public:
  /// stop_ids: nothing is drafted after one of these; they must live as long as this.
  draft_list(index_t depth, index_t vocabulary, std::span<const std::int32_t> stop_ids = {})
      : ids_(static_cast<std::size_t>(depth)),
        q_(static_cast<std::size_t>(depth), distribution(vocabulary)),
        stop_ids_(stop_ids) {}

  void clear() { size_ = 0; }
  index_t size() const { return static_cast<index_t>(size_); }
  index_t capacity() const { return static_cast<index_t>(ids_.size()); }
  std::span<const std::int32_t> ids() const { return std::span<const std::int32_t>(ids_).first(size_); }
  const distribution& q(index_t i) const { return q_[static_cast<std::size_t>(i)]; }

  /// The distribution of the next draft, to be filled before add().
  distribution& next() { return q_[size_]; }
  /// A token that was drawn from next().
  void add(std::int32_t id) { ids_[size_++] = id; }
  /// Whether the last draft is a stop id.
  bool ended() const {
    return size_ > 0 && std::find(stop_ids_.begin(), stop_ids_.end(), ids_[size_ - 1]) != stop_ids_.end();
  }

 private:
  std::vector<std::int32_t> ids_;
  std::vector<distribution> q_;
  std::span<const std::int32_t> stop_ids_;
  std::size_t size_ = 0;
};

/// What a judged draft becomes.
struct draft_judgement {
  std::int32_t id;
  bool accepted;
};

/// Keeps x, which was drawn from q, or replaces it by a token from what q leaves of p.
/// choose: has chance(probability) -> bool and pick(distribution) -> id, as a sampler has.  Overwrites p.
template <class Choose>
draft_judgement judge(Choose& choose, distribution& p, std::int32_t x, const distribution& q) {
  if (choose.chance(p[x] / q[x])) return {x, true};
  p.subtract(q);
  return {choose.pick(p), false};
}

}  // namespace dsv4
