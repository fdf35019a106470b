// SPDX-License-Identifier: MIT
#pragma once
/// What a sampler does to logits, in which order, and where its random numbers come from.
///
/// Order, and why:
///   1 constrain           sees what the model said, before anything else may lift a forbidden token
///   2 penalties           repetition first (it scales the model's own logit, so a bias must not be in it),
///                         then frequency and presence, which subtract
///   3 logit_bias          is exactly what is added, whatever was said before
///   4 temperature         from here on: probabilities; penalties and biases act at temperature 1
///   5 top_k, 6 top_p      top_p measures mass among what top_k left, as if the model had said only that
///   7 min_p               compares with the likeliest token, so its place changes nothing about itself;
///                         last, so that top_p measures the model's mass and not its own leavings
/// Log-probabilities (gen/log_probability.hpp) are those before step 1.
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "../core/contract.hpp"

namespace dsv4 {

struct logit_bias {
  std::int32_t id;
  double added;  ///< minus infinity forbids the token
};

struct sampling {
  double temperature = 0;  ///< 0: greedy
  double top_p = 1;        ///< keep the likeliest tokens up to this mass; 1: all
  std::uint64_t seed = 0;
  index_t top_k = 0;  ///< keep this many of the likeliest tokens; 0: all
  double min_p = 0;   ///< keep tokens with at least this part of the likeliest one's probability; 0: all

  // Of a token that the last penalty_window ids of prompt and answer hold n > 0 times:
  double repetition_penalty = 1;  ///< logit / r where positive, logit * r where negative; 1: none
  double frequency_penalty = 0;   ///< logit - n * this
  double presence_penalty = 0;    ///< logit - this
  index_t penalty_window = 0;     ///< 0: all ids

  std::vector<logit_bias> bias{};
  /// Constrained decoding: sets what may not follow `ids` (prompt and answer so far) to minus infinity.
  /// Speculative decoding also asks about drafts that are then dropped: it must depend on its arguments alone.
  std::function<void(std::span<const std::int32_t> ids, std::span<double> logits)> constrain{};

  bool penalises() const {
    return repetition_penalty != 1 || frequency_penalty != 0 || presence_penalty != 0;
  }
};

/// @throws contract_violation, naming the setting and what it may be
inline void check_sampling(const sampling& s, index_t vocabulary) {
  expects(s.temperature >= 0 && std::isfinite(s.temperature), "sampler: temperature must be 0 or more");
  expects(s.top_p > 0 && s.top_p <= 1, "sampler: top_p must be above 0 and at most 1");
  expects(s.top_k >= 0, "sampler: top_k must be 0 (all tokens) or more");
  expects(s.min_p >= 0 && s.min_p <= 1, "sampler: min_p must lie in [0, 1]");
  expects(s.repetition_penalty > 0 && std::isfinite(s.repetition_penalty),
          "sampler: repetition_penalty must be above 0 (1: none)");
  expects(std::isfinite(s.frequency_penalty), "sampler: frequency_penalty must be finite");
  expects(std::isfinite(s.presence_penalty), "sampler: presence_penalty must be finite");
  expects(s.penalty_window >= 0, "sampler: penalty_window must be 0 (all ids) or more");
  for (const logit_bias& b : s.bias) {
    expects_in(b.id, 0, vocabulary, "sampler: token id of a logit bias");
    expects(b.added < HUGE_VAL, "sampler: a logit bias must be a finite number or minus infinity");
  }
}

/// Output `n` (from 0) of the generator splitmix64 with this seed.
/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014).
constexpr std::uint64_t splitmix64(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15;  // 2^64 / golden ratio, odd
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}
/// The same in [0, 1), from its 53 high bits.
constexpr double uniform(std::uint64_t seed, std::uint64_t n) {
  return static_cast<double>(splitmix64(seed, n) >> 11) * 0x1p-53;
}

}  // namespace dsv4
