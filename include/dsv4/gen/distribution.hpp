// SPDX-License-Identifier: MIT
#pragma once
/// The distribution that the next token is drawn from, as numbers: one probability per id, in double.
/// Plain sampling draws from it; speculative decoding compares two of them.
/// axes     v vocabulary
///
/// @post (1) softmax: p[v] is proportional to exp(x[v] / temperature); NaN counts as minus infinity
///       (2) top_k keeps the k largest, top_p the shortest run by falling logit whose mass reaches top_p of
///           what top_k left, min_p those with p >= min_p max(p); equal logits rank by id; one always stays
///       (3) draw(u) for u uniform in [0, 1) gives id v with probability p[v]
///       (4) subtract(q): max(p - q, 0) / its sum
///       (5) nothing is allocated after construction
#include <algorithm>
#include <cmath>
#include <limits>

#include "sampling.hpp"

namespace dsv4 {

/// Ids by falling value, the lower id first among equals; only as much of the order is made as is asked for.
class ranking {
 public:
  explicit ranking(index_t vocabulary) { heap_.reserve(static_cast<std::size_t>(vocabulary)); }

  /// Rank the ids with mass[id] > 0 by x[id].  x must live as long as the order is used.
  void rank(std::span<const double> x, std::span<const double> mass) {
    x_ = x;
    ordered_ = 0;
    heap_.clear();
    for (std::size_t i = 0; i < x.size(); ++i)
      if (mass[i] > 0) heap_.push_back(static_cast<std::int32_t>(i));
    std::make_heap(heap_.begin(), heap_.end(), later{x_});
  }
  std::size_t size() const { return heap_.size(); }
  /// The k-th id, from 0.
  std::int32_t operator[](std::size_t k) {
    for (; ordered_ <= k; ++ordered_)
      std::pop_heap(heap_.begin(), heap_.end() - static_cast<std::ptrdiff_t>(ordered_), later{x_});
    return heap_[heap_.size() - 1 - k];
  }
  /// All but the first `kept`, in no particular order.
  std::span<const std::int32_t> rest(std::size_t kept) {
    if (kept > 0) (*this)[kept - 1];
    return std::span<const std::int32_t>(heap_).first(heap_.size() - kept);
  }

 private:
  /// Whether a ranks after b.
  struct later {
    std::span<const double> x;
    bool operator()(std::int32_t a, std::int32_t b) const {
      const double xa = x[static_cast<std::size_t>(a)], xb = x[static_cast<std::size_t>(b)];
      return xa != xb ? xa < xb : a > b;
    }
  };
  std::span<const double> x_;
  std::vector<std::int32_t> heap_;  // a heap, then the first ordered_ of the order from the back
  std::size_t ordered_ = 0;
};

/// The largest value's id, the lowest among equals.  @throws error if none is above minus infinity
template <class T>
std::int32_t argmax(std::span<const T> x) {
  T largest = -std::numeric_limits<T>::infinity();
  std::int32_t best = -1;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (x[i] > largest) largest = x[i], best = static_cast<std::int32_t>(i);
  if (best < 0) throw error("sampler: no logit is a number above minus infinity");
  return best;
}

class distribution {
 public:
  explicit distribution(index_t vocabulary) : p_(static_cast<std::size_t>(vocabulary)) {}

  index_t size() const { return static_cast<index_t>(p_.size()); }
  /// The probability of a token; over all tokens they sum to 1 but for rounding.
  double operator[](std::int32_t id) const {
    return certain_ < 0 ? p_[static_cast<std::size_t>(id)] : id == certain_ ? 1 : 0;
  }
  /// Whether one token has all the probability because the choice is greedy.  Then no random number is needed.
  bool certain() const { return certain_ >= 0; }

  /// The likeliest token, the lowest id among equals.
  std::int32_t mode() const { return certain() ? certain_ : argmax(std::span<const double>(p_)); }

  /// All probability to one token.
  void assign(std::int32_t id) { certain_ = id; }

  /// Of processed logits: greedy, or softmax and cuts.  `scratch` orders the ids.
  /// @throws error if no logit is above minus infinity
  void assign(std::span<const double> x /*[v]*/, const sampling& s, ranking& scratch) {
    const std::int32_t best = argmax(x);
    if (s.temperature == 0) return assign(best);
    certain_ = -1;

    // Masses relative to the largest: (1)
    const double largest = x[static_cast<std::size_t>(best)];
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double mass = x[i] == largest ? 1 : std::exp((x[i] - largest) / s.temperature);
      p_[i] = mass > 0 ? mass : 0;
    }
    cut(x, s, scratch);
    normalise();
  }

  /// u in [0, 1) to a token: the first whose cumulated probability is above u.  Rounding may leave a sum
  /// below u: then the last possible token.
  std::int32_t draw(double u) const {
    if (certain()) return certain_;
    double sum = 0;
    std::size_t last = 0;
    for (std::size_t i = 0; i < p_.size(); ++i)
      if (p_[i] > 0) {
        last = i;
        if ((sum += p_[i]) > u) break;
      }
    return static_cast<std::int32_t>(last);
  }

  /// (4) Takes q's share away and scales the rest to a sum of 1.  Changes nothing where rounding leaves no rest.
  void subtract(const distribution& q) {
    if (certain()) return;  // q gave this token less than all, so all that is left is this token
    double left = 0;
    for (std::size_t i = 0; i < p_.size(); ++i)
      left += std::max(p_[i] - q[static_cast<std::int32_t>(i)], 0.0);
    if (!(left > 0)) return;
    for (std::size_t i = 0; i < p_.size(); ++i)
      p_[i] = std::max(p_[i] - q[static_cast<std::int32_t>(i)], 0.0);
    normalise();
  }

 private:
  double mass(std::int32_t id) const { return p_[static_cast<std::size_t>(id)]; }

  /// Sets the masses that top_k, top_p and min_p drop to zero.  All three keep a beginning of the same order.
  void cut(std::span<const double> x, const sampling& s, ranking& order) {
    if (s.top_k == 0 && s.top_p == 1 && s.min_p == 0) return;
    order.rank(x, p_);
    std::size_t kept = order.size();
    double whole = 0;
    if (s.top_k > 0 && s.top_k < static_cast<index_t>(kept)) {
      kept = static_cast<std::size_t>(s.top_k);
      for (std::size_t k = 0; k < kept; ++k) whole += mass(order[k]);
    } else {
      for (const double m : p_) whole += m;
    }
    if (s.top_p < 1) {
      std::size_t k = 0;
      for (double sum = 0; k < kept && sum < s.top_p * whole; ++k) sum += mass(order[k]);
      kept = k;
    }
    if (s.min_p > 0) {
      std::size_t k = 1;  // the largest has mass 1
      while (k < kept && mass(order[k]) >= s.min_p) ++k;
      kept = k;
    }
    for (const std::int32_t id : order.rest(kept)) p_[static_cast<std::size_t>(id)] = 0;
  }
  void normalise() {
    double sum = 0;
    for (const double p : p_) sum += p;
    for (double& p : p_) p /= sum;
  }

  std::vector<double> p_;      // [v], unless one is certain
  std::int32_t certain_ = -1;  // the only token, or -1
};

}  // namespace dsv4
