// SPDX-License-Identifier: MIT
#pragma once
/// From logits to a token: processors, an explicit distribution, a draw.  gen/sampling.hpp has the settings
/// and the order in which they work, gen/distribution.hpp the distribution.
/// axes     v vocabulary
///
/// The same seed gives the same tokens for the same logits, whatever the threads: the random number of draw i
/// is a function of (seed, i) alone, and all arithmetic is double in a fixed order.  What remains of the
/// platform is the last bit of std::exp.
/// @post (1) temperature 0 takes the largest processed logit, the lowest id among equals; draws nothing
///       (2) a token is drawn with the probability that next() gives it
///       (3) penalties and constrain see exactly the remembered ids; forget() undoes remember()
///       (4) a sampler restored from state() goes on with the same tokens
///       (5) nothing is allocated after construction, for up to max_tokens remembered ids
#include "distribution.hpp"
#include "token_history.hpp"

namespace dsv4 {

/// What a sampler knows beyond its settings: enough to go on later, elsewhere.
struct sampler_state {
  std::uint64_t draws = 0;        ///< random numbers used
  std::vector<std::int32_t> ids;  ///< remembered; empty if the settings look at none
};

class sampler {
 public:
  /// max_tokens: the longest conversation without allocation.
  /// @throws contract_violation for impossible settings
  sampler(const sampling& s, index_t vocabulary, index_t max_tokens = 0)
      : s_((check_sampling(s, vocabulary), s)),
        history_(vocabulary, s.penalty_window, remembers() ? max_tokens : 0),
        x_(static_cast<std::size_t>(vocabulary)),
        order_(vocabulary),
        own_(vocabulary) {}

  const sampling& settings() const { return s_; }

  // ---- which ids have been said

  /// Whether any setting looks at earlier ids.  If none does, no ids are kept.
  bool remembers() const { return s_.penalises() || s_.constrain; }
  void remember(std::int32_t id) {
    if (remembers()) history_.push(id);
  }
  /// Take the last id back.
  void forget() {
    if (remembers()) history_.pop();
  }
  /// A sequence that holds `length` tokens is about to read `prompt`: ids beyond `length` are taken back
  /// (an answer's last token, which nothing has read yet; a conversation that was cut), the prompt is remembered.
  /// @throws contract_violation if earlier ids matter and this sampler has not seen them
  void begin(index_t length, std::span<const std::int32_t> prompt) {
    if (!remembers()) return;
    expects(history_.size() >= length,
            "sampler: penalties and constraints look at earlier ids; begin(0, ids) with those that the "
            "sequence holds");
    history_.truncate(length);
    for (const std::int32_t id : prompt) history_.push(id);
  }

  // ---- the next token

  /// The distribution of the token after the remembered ids.
  /// @throws error if no token is possible
  template <class T>
  void next(view<const T, 1> logits /*[v]*/, distribution& p) {
    expects_equal(logits.extent(0), static_cast<index_t>(x_.size()),
                  "sampler: logits against the vocabulary");
    std::transform(logits.begin(), logits.end(), x_.begin(), [](T x) { return static_cast<double>(x); });
    if (s_.constrain) s_.constrain(history_.ids(), x_);
    if (s_.penalises()) penalise();
    for (const logit_bias& b : s_.bias) x_[static_cast<std::size_t>(b.id)] += b.added;
    p.assign(x_, s_, order_);
  }
  /// A token of p.  Draws a random number unless p is certain.
  std::int32_t pick(const distribution& p) { return p.certain() ? p.draw(0) : p.draw(random()); }
  /// True with this probability.  Draws a random number unless that is 0 or 1 (or beyond).
  bool chance(double probability) {
    if (probability <= 0 || probability >= 1) return probability >= 1;
    return random() < probability;
  }
  /// The next token, remembered.
  template <class T>
  std::int32_t operator()(view<const T, 1> logits) {
    next(logits, own_);
    const std::int32_t id = pick(own_);
    remember(id);
    return id;
  }

  // ---- going on later

  std::uint64_t draws() const { return draws_; }
  sampler_state state() const { return {draws_, {history_.ids().begin(), history_.ids().end()}}; }
  /// @throws contract_violation for ids outside the vocabulary; nothing has changed when it throws
  void restore(const sampler_state& state) {
    if (remembers()) history_.assign(state.ids);
    draws_ = state.draws;
  }

  /// The largest logit's id, the lowest among equals.
  template <class T>
  static std::int32_t greedy(view<const T, 1> logits) {
    return argmax(std::span<const T>(logits.begin(), logits.end()));
  }

 private:
  double random() { return uniform(s_.seed, draws_++); }

  void penalise() {
    for (std::size_t i = 0; i < x_.size(); ++i) {
      const auto n = static_cast<double>(history_.count(static_cast<index_t>(i)));
      if (n == 0) continue;
      x_[i] = x_[i] > 0 ? x_[i] / s_.repetition_penalty : x_[i] * s_.repetition_penalty;
      x_[i] -= n * s_.frequency_penalty + s_.presence_penalty;
    }
  }

  sampling s_;
  std::uint64_t draws_ = 0;
  token_history history_;
  std::vector<double> x_;  // [v] logits under way
  ranking order_;
  distribution own_;
};

}  // namespace dsv4
