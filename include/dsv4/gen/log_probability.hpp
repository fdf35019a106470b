// SPDX-License-Identifier: MIT
#pragma once
/// Log-probabilities as the model gives them: softmax of the raw logits, before temperature, penalties,
/// cuts or constraints.  Natural logarithm.
/// axes     v vocabulary
/// @post (1) log_probability(v) = x[v] - log sum exp x; NaN counts as minus infinity
///       (2) top(): the n likeliest, falling, the lower id first among equals
///       (3) nothing is allocated after construction
#include "distribution.hpp"

namespace dsv4 {

struct token_probability {
  std::int32_t id;
  double log_probability;
};

class log_probabilities {
 public:
  /// top: how many of the likeliest tokens to list, at most the vocabulary.
  log_probabilities(index_t top, index_t vocabulary)
      : top_(static_cast<std::size_t>(std::clamp(top, index_t{0}, vocabulary))),
        x_(static_cast<std::size_t>(vocabulary)),
        order_(static_cast<std::size_t>(vocabulary)) {}

  /// Of one row of logits [v].  @throws error if none is above minus infinity
  template <class T>
  void read(view<const T, 1> logits) {
    expects_equal(logits.extent(0), static_cast<index_t>(x_.size()),
                  "log_probabilities: logits against the vocabulary");
    const double largest =
        static_cast<double>(logits[argmax(std::span<const T>(logits.begin(), logits.end()))]);
    double sum = 0;
    for (std::size_t i = 0; i < x_.size(); ++i) {
      const auto x = static_cast<double>(logits[static_cast<index_t>(i)]);
      const double below = x == largest ? 0 : x - largest;  // also where the largest is infinite
      x_[i] = below <= 0 ? below : -std::numeric_limits<double>::infinity();
      sum += std::exp(x_[i]);
    }
    const double log_sum = std::log(sum);
    for (double& x : x_) x -= log_sum;

    for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<std::int32_t>(i);
    std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(top_.size()), order_.end(),
                      [&](std::int32_t a, std::int32_t b) {
                        return (*this)[a] != (*this)[b] ? (*this)[a] > (*this)[b] : a < b;
                      });
    for (std::size_t k = 0; k < top_.size(); ++k) top_[k] = {order_[k], (*this)[order_[k]]};
  }
  double operator[](std::int32_t id) const { return x_[static_cast<std::size_t>(id)]; }
  std::span<const token_probability> top() const { return top_; }

 private:
  std::vector<token_probability> top_;
  std::vector<double> x_;            // [v]
  std::vector<std::int32_t> order_;  // [v]
};

}  // namespace dsv4
