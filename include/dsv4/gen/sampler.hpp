// SPDX-License-Identifier: MIT
#pragma once
/// From logits to a token: greedy, or temperature and top-p with a seed.
///
/// The same seed gives the same tokens everywhere: the random number of draw i is a function of
/// (seed, i) alone (splitmix64), probabilities are double, and tokens of equal logits are ordered by
/// id.  What remains of the platform is the last bit of std::exp.
/// @post (1) temperature 0 takes the largest logit, the lowest id among equals; draws nothing
///       (2) top_p keeps the shortest run of tokens, by falling logit, whose mass reaches top_p of the
///           whole, at least one; what is kept is drawn in proportion to its mass
///       (3) nothing is allocated after construction
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../core/contract.hpp"
#include "../core/view.hpp"

namespace dsv4 {

struct sampling {
  double temperature = 0;  ///< 0: greedy
  double top_p = 1;        ///< 1: all tokens
  std::uint64_t seed = 0;
};

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

class sampler {
 public:
  /// @throws contract_violation: temperature negative or not finite, top_p outside (0, 1]
  sampler(const sampling& s, index vocabulary) : s_(s) {
    expects(s.temperature >= 0 && std::isfinite(s.temperature), "sampler: temperature must be 0 or more");
    expects(s.top_p > 0 && s.top_p <= 1, "sampler: top_p must be above 0 and at most 1");
    heap_.reserve(static_cast<std::size_t>(vocabulary));
  }

  /// The next token.  NaN counts as minus infinity.  @throws error if no logit is above that
  template <class T>
  std::int32_t operator()(view<const T, 1> logits) {
    const index best = greedy(logits);
    if (s_.temperature == 0) return static_cast<std::int32_t>(best);
    const double largest = static_cast<double>(logits[best]);

    // Masses relative to the largest, and their sum in the order of the ids.
    heap_.clear();
    double total = 0;
    for (index i = 0; i < logits.extent(0); ++i) {
      const auto x = static_cast<double>(logits[i]);
      const double mass = x == largest ? 1 : std::exp((x - largest) / s_.temperature);
      if (!(mass > 0)) continue;
      heap_.push_back({x, mass, static_cast<std::int32_t>(i)});
      total += mass;
    }

    // The k-th candidate by falling logit: only as much of the order is made as is asked for.
    std::make_heap(heap_.begin(), heap_.end(), after);
    std::size_t ordered = 0;
    const auto ranked = [&](std::size_t k) -> const candidate& {
      for (; ordered <= k; ++ordered)
        std::pop_heap(heap_.begin(), heap_.end() - static_cast<std::ptrdiff_t>(ordered), after);
      return heap_[heap_.size() - 1 - k];
    };
    std::size_t kept = heap_.size();
    double mass = total;
    if (s_.top_p < 1)
      for (mass = 0, kept = 0; kept < heap_.size() && mass < s_.top_p * total;) mass += ranked(kept++).mass;

    // Walk the kept candidates until their mass passes the draw.
    const double draw = uniform(s_.seed, draws_++) * mass;
    double sum = 0;
    for (std::size_t k = 0; k + 1 < kept; ++k)
      if ((sum += ranked(k).mass) > draw) return ranked(k).id;
    return ranked(kept - 1).id;
  }

  /// Random numbers used so far.
  std::uint64_t draws() const { return draws_; }

  /// The largest logit's id, the lowest among equals.
  template <class T>
  static index greedy(view<const T, 1> logits) {
    index best = -1;
    for (index i = 0; i < logits.extent(0); ++i)
      if (logits[i] > (best < 0 ? -std::numeric_limits<T>::infinity() : logits[best])) best = i;
    if (best < 0) throw error("sampler: no logit is a number above minus infinity");
    return best;
  }

 private:
  struct candidate {
    double logit, mass;
    std::int32_t id;
  };
  static bool after(const candidate& a, const candidate& b) {
    return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
  }

  sampling s_;
  std::uint64_t draws_ = 0;
  std::vector<candidate> heap_;
};

}  // namespace dsv4
