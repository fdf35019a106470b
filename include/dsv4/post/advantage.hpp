// SPDX-License-Identifier: MIT
#pragma once
/// Advantages: how much better an answer is than the other answers to its prompt.
/// @paper{DSV4, section 5.1: GRPO; formulas as DeepSeekMath, DeepSeek-R1 and TRL 1.16 have them}
/// axes     n answer, those of one prompt side by side · f reward function
/// oracle   golden/grpo/advantages.safetensors
/// deviates none
///
///   R_n = sum_f w_f R_nf   over the functions that scored the answer (not NaN); NaN if none did
///   A_n = (R_n - mean of its group) / (s + 1e-4),   s the standard deviation of the group, of the batch, or no division
///
/// @post (1) an answer that nobody could score has A = 0, and moves neither mean nor deviation of the others
///       (2) a group whose rewards are equal has A = 0
///       (3) with scale "group" the only scored answer of a group has A = 0: it has nothing to be compared with
/// @throws contract_violation  a reward is infinite, or the sizes do not match
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "../core/contract.hpp"
#include "../core/tensor.hpp"

namespace dsv4::post {

/// What the distance from the group's mean is divided by.
enum class reward_scale { none, group, batch };

struct advantage_rule {
  reward_scale scale = reward_scale::group;
  /// Each reward function is standardised in its group before they are added up; the sum then over the batch.
  /// `scale` means nothing in this case.
  bool each_function_first = false;
};

/// Keeps the division finite where all rewards are equal.
inline constexpr double deviation_floor = 1e-4;

namespace detail {

/// Mean and standard deviation of the values that are not NaN, the latter with n - 1 in its denominator.
struct moments {
  double mean = std::numeric_limits<double>::quiet_NaN(), deviation = mean;

  explicit moments(std::span<const double> values) {
    double sum = 0, squares = 0, n = 0;
    for (const double v : values)
      if (!std::isnan(v)) sum += v, ++n;
    if (n < 1) return;
    mean = sum / n;
    for (const double v : values)
      if (!std::isnan(v)) squares += (v - mean) * (v - mean);
    if (n > 1) deviation = std::sqrt(squares / (n - 1));
  }
  double standardised(double v) const { return (v - mean) / (deviation + deviation_floor); }
};

inline double weight_of(std::span<const double> weights, index_t f) {
  return weights.empty() ? 1 : weights[usize(f)];
}

}  // namespace detail

/// Sum of the rewards of each answer; NaN where no function scored it.
/// weights [f]: empty means 1 each.
inline std::vector<double> total_rewards(view<const double, 2> rewards /*[n,f]*/,
                                         std::span<const double> weights = {}) {
  std::vector<double> total;
  for (index_t n = 0; n < rewards.extent(0); ++n) {
    double sum = 0;
    bool scored = false;
    for (index_t f = 0; f < rewards.extent(1); ++f) {
      const double r = rewards(n, f);
      if (std::isinf(r))
        throw contract_violation("advantages: reward " + std::to_string(f) + " of answer " +
                                 std::to_string(n) +
                                 " is infinite; a reward is a finite number, or NaN for \"not scored\"");
      if (std::isnan(r)) continue;
      sum += detail::weight_of(weights, f) * r;
      scored = true;
    }
    total.push_back(scored ? sum : std::numeric_limits<double>::quiet_NaN());
  }
  return total;
}

/// Advantage of each answer.  Answers n = i group, i group + 1, ... belong to prompt i.
/// weights [f]: of the reward functions, empty means 1 each.
inline std::vector<double> advantages(view<const double, 2> rewards /*[n,f]*/, index_t group,
                                      const advantage_rule& rule = {}, std::span<const double> weights = {}) {
  // contract
  const index_t answers = rewards.extent(0), functions = rewards.extent(1);
  expects(group >= 1, "advantages: a group has at least one answer, got " + std::to_string(group));
  expects_equal(answers % group, 0, "advantages: answers left over after whole groups");
  if (!weights.empty())
    expects_equal(static_cast<index_t>(weights.size()), functions, "advantages: weights against functions");

  const std::vector<double> total = total_rewards(rewards, weights);
  const auto group_of = [group](const std::vector<double>& values, index_t first) {
    return std::span(values).subspan(usize(first), usize(group));
  };
  std::vector<double> out(total.size());

  if (rule.each_function_first) {
    // Every function to mean 0 and deviation 1 in its group; one that scored nothing comparable adds nothing.
    std::vector<double> column(total.size()), sum(total.size(), 0.0);
    for (index_t f = 0; f < functions; ++f) {
      for (index_t n = 0; n < answers; ++n) column[usize(n)] = rewards(n, f);
      for (index_t first = 0; first < answers; first += group) {
        const detail::moments m(group_of(column, first));
        for (index_t n = first; n < first + group; ++n) {
          const double z = m.standardised(column[usize(n)]);
          if (!std::isnan(z)) sum[usize(n)] += detail::weight_of(weights, f) * z;
        }
      }
    }
    for (std::size_t n = 0; n < sum.size(); ++n)
      if (std::isnan(total[n])) sum[n] = total[n];
    const detail::moments m(sum);
    for (std::size_t n = 0; n < sum.size(); ++n) out[n] = m.standardised(sum[n]);
  } else {
    const detail::moments batch(total);
    for (index_t first = 0; first < answers; first += group) {
      const detail::moments m(group_of(total, first));
      // A group (or batch) of one by design is not a group of which one is left: its deviation is 0, not unknown.
      const double divisor =
          rule.scale == reward_scale::group   ? (group > 1 ? m.deviation : 0) + deviation_floor
          : rule.scale == reward_scale::batch ? (answers > 1 ? batch.deviation : 0) + deviation_floor
                                              : 1;
      for (index_t n = first; n < first + group; ++n) out[usize(n)] = (total[usize(n)] - m.mean) / divisor;
    }
  }
  for (double& a : out)
    if (std::isnan(a)) a = 0;  // (1), (3)
  return out;
}

}  // namespace dsv4::post
