// SPDX-License-Identifier: MIT
#pragma once
/// What a model remembers of one sequence, and how far back it can go.
/// @paper{DSV4, section 3.5.1}
/// axes     none
/// oracle   golden/official cache.L.kv
/// deviates sequences can be taken back (speculative decoding), see attn/kv_cache.hpp
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../attn/kv_cache.hpp"

namespace dsv4 {

/// The memory of one sequence: what every layer's attention remembers, and how many tokens it has seen.
/// A value: copying it forks the sequence (beam search, shared prompts).
template <numerics_policy P, execution E>
class sequence {
 public:
  sequence() = default;
  /// max_tokens: the longest it can get; max_rewind: how many tokens it can take back at any time, at most all of
  /// them.
  /// @throws contract_violation if max_tokens exceeds the model's max_position_embeddings.
  sequence(const config& c, index_t max_tokens, index_t max_rewind)
      : max_tokens_(max_tokens), max_rewind_(std::min(max_rewind, max_tokens)) {
    expects(max_tokens >= 0 && max_rewind >= 0, "sequence: negative size");
    if (max_tokens > c.max_position_embeddings)
      throw contract_violation("sequence: " + std::to_string(max_tokens) +
                               " tokens, but the model's context ends at " +
                               std::to_string(c.max_position_embeddings) + " (max_position_embeddings)");
    states_.reserve(c.compress_ratios.size());
    for (const index_t ratio : c.compress_ratios) states_.push_back({c, ratio, max_tokens_, max_rewind_});
  }

  sequence(const sequence&) = default;
  sequence(sequence&&) = default;
  /// All or nothing: without memory for the copy this sequence stays what it was, never half of each.
  sequence& operator=(const sequence& o) { return *this = sequence(o); }
  sequence& operator=(sequence&&) = default;

  index_t length() const { return length_; }
  index_t mtp_length() const { return mtp_length_; }
  index_t max_tokens() const { return max_tokens_; }
  index_t max_rewind() const { return max_rewind_; }
  /// The earliest position that rewind() and rewind_mtp() can reach, besides 0.  A sequence that was loaded
  /// (gen/state_file.hpp) or begins with a reused prefix (gen/prefix_cache.hpp) has no rows before its floor.
  index_t rewind_limit() const { return std::min(length_, std::max(floor_, high_water_ - max_rewind_)); }
  index_t mtp_rewind_limit() const { return std::min(mtp_length_, mtp_limit()); }

  /// Whether it still holds what its tokens left behind.  It does not after a call of more than max_rewind + 1 tokens
  /// that an exception ended midway: rows that the earlier tokens need may be overwritten.  Such a sequence can only be reset,
  /// rewound to 0 or replaced by a copy that was made before; everything else is refused.
  bool intact() const { return main_intact() && mtp_intact(); }

  /// Forget everything; the next token has position 0.
  void reset() {
    length_ = mtp_length_ = high_water_ = mtp_high_water_ = floor_ = mtp_floor_ = 0;
    weights_ = 0;
  }

  /// Take tokens back: the sequence is as it was after its first `position` tokens.  MTP pairs that saw a
  /// token taken back go too: pair i holds token i+1, so at most position - 1 pairs stay.
  /// @throws contract_violation if position is below rewind_limit(): more than max_rewind tokens back.
  void rewind(index_t position) {
    expects_in(position, 0, length_ + 1, "sequence::rewind: position");
    if (position > 0) expect_intact();
    if (position == length_) return;
    if (position == 0) return reset();
    expects(position >= rewind_limit(),
            "sequence::rewind: that many tokens cannot be taken back; make the sequence with a larger "
            "max_rewind");
    if (mtp_length_ >= position) rewind_mtp(position - 1);
    length_ = position;
  }
  /// The same for the MTP module alone; it can go one pair further (a ring has one row more than a window needs).
  void rewind_mtp(index_t position) {
    expects_in(position, 0, mtp_length_ + 1, "sequence::rewind_mtp: position");
    if (position > 0) expect_mtp_intact();
    expects(position == 0 || position >= mtp_rewind_limit(),
            "sequence::rewind_mtp: that many tokens cannot be taken back; make the sequence with a larger "
            "max_rewind");
    mtp_length_ = position;
    if (position == 0) mtp_high_water_ = mtp_floor_ = 0;
  }

  /// What layer l remembers (MTP blocks come after the layers).
  const attention_state<P, E>& layer(index_t l) const { return states_[static_cast<std::size_t>(l)]; }

 private:
  template <numerics_policy, execution>
  friend class transformer;
  template <numerics_policy, execution>
  friend struct sequence_access;  // gen/state.hpp: writes a sequence down and makes it again

  /// Whether this sequence was made for a model of this configuration.
  bool fits(const config& c) const {
    bool same = states_.size() == c.compress_ratios.size();
    for (std::size_t l = 0; same && l < states_.size(); ++l)
      same = states_[l].fits(c, c.ratio(static_cast<index_t>(l)), max_tokens_, max_rewind_);
    return same;
  }
  /// Whether what it remembers came from these weights (fingerprint.hpp), as far as that is known.
  bool can_go_on_with(std::uint64_t fingerprint) const {
    return weights_ == 0 || weights_ == fingerprint || (length_ == 0 && mtp_length_ == 0);
  }
  attention_state<P, E>& state(index_t l) { return states_[static_cast<std::size_t>(l)]; }
  // A ring has one row more than its queries need, hence the - 1: what is overwritten by `high_water_` rows leaves a
  // sequence of this length or more whole.
  index_t mtp_limit() const { return std::max(mtp_floor_, mtp_high_water_ - max_rewind_ - 1); }
  bool main_intact() const {
    return length_ == 0 || length_ >= std::max(floor_, high_water_ - max_rewind_ - 1);
  }
  bool mtp_intact() const { return mtp_length_ == 0 || mtp_length_ >= mtp_limit(); }
  void expect_intact() const { expect_intact(main_intact(), "reset() it"); }
  void expect_mtp_intact() const { expect_intact(mtp_intact(), "rewind_mtp(0) or reset() it"); }
  static void expect_intact(bool ok, const char* remedy) {
    if (ok) return;
    throw contract_violation(
        "sequence: an earlier call was ended midway by an exception and has overwritten rows that this "
        "sequence "
        "needs; " +
        std::string(remedy) +
        ", or go on with a copy made before (a max_rewind of the call's tokens avoids this)");
  }

  /// A call begins to write the rows of n more tokens, computed from the weights of this fingerprint …
  void will_write(index_t n, std::uint64_t fingerprint) {
    high_water_ =
        length_ == 0 ? n : std::max(high_water_, length_ + n);  // at the beginning no row is needed yet
    weights_ = fingerprint;
  }
  void will_write_mtp(index_t n, std::uint64_t fingerprint) {
    mtp_high_water_ = mtp_length_ == 0 ? n : std::max(mtp_high_water_, mtp_length_ + n);
    weights_ = fingerprint;
  }
  /// … and has written them.
  void advance(index_t n) { length_ += n; }
  void advance_mtp(index_t n) { mtp_length_ += n; }

  std::vector<attention_state<P, E>> states_;  // [layers + mtp blocks]
  index_t length_ = 0, mtp_length_ = 0, max_tokens_ = 0, max_rewind_ = 0;
  // The longest length reached: rows that a rewind needs may have been overwritten up to there.
  index_t high_water_ = 0, mtp_high_water_ = 0;
  index_t floor_ = 0, mtp_floor_ = 0;  // rows from before these were never there
  one_caller caller_;                  // the call that reads or writes it now
  std::uint64_t weights_ = 0;          // fingerprint of those that the rows came from; 0: none, or not known
};

namespace detail {

/// While it lives its call alone uses the sequences of the batch, also where another model's call gets one of them.  At
/// its end every sequence has its length back, unless the call is done.
template <class Input, class Sequence>
struct lengths_unless_done {
  std::span<const Input> batch;
  index_t Sequence::*length;
  one_caller Sequence::*caller;
  std::vector<index_t>& lengths;
  std::size_t entered = 0;
  bool done = false;

  /// @throws contract_violation another call uses one of them
  lengths_unless_done(std::span<const Input> b, index_t Sequence::*l, one_caller Sequence::*c,
                      std::vector<index_t>& room)
      : batch(b), length(l), caller(c), lengths(room) {
    lengths.clear();
    for (const Input& i : batch) lengths.push_back(i.sequence->*length);
    for (; entered < batch.size(); ++entered) {
      if ((batch[entered].sequence->*caller).enter()) continue;
      leave();
      throw contract_violation(
          "forward: a sequence that another call is using, by a second thread or by an observer; each thread "
          "needs a "
          "sequence of its own (a copy, say)");
    }
  }
  lengths_unless_done(const lengths_unless_done&) = delete;
  ~lengths_unless_done() {
    for (std::size_t i = 0; !done && i < batch.size(); ++i) batch[i].sequence->*length = lengths[i];
    leave();
  }

 private:
  void leave() {
    for (std::size_t i = 0; i < entered; ++i) (batch[i].sequence->*caller).leave();
  }
};

}  // namespace detail

}  // namespace dsv4
