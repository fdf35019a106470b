// SPDX-License-Identifier: MIT
#pragma once
/// What of a rollout is left out of the policy term: bad answers this policy would no longer give, and tokens that were no decision.
/// @paper{DSV4, section 5.1 (off-policy mask as DeepSeek-V3.2); entropy mask as in TRL 1.16}
/// axes     b answer · t token
/// oracle   golden/grpo/off_policy_mask.safetensors; extra `entropy_quantile_*`, `sequence_delta_mask`
/// deviates none
///
///   off-policy   an answer stays if A >= 0 or mean over its counted tokens of (old - lp) <= threshold
///   entropy      a token stays if its entropy >= the (1 - share)-quantile of all counted tokens
///   importance   w = min(exp(old - sampler), cap): the sampler's numbers are not the trainer's
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "../core/contract.hpp"
#include "policy_ratio.hpp"

namespace dsv4::post {

/// Whether answer b stays.  lp is a constant here.  A difference that is NaN (a sampler that gave none) counts as 0.
template <class T>
bool is_on_policy(T advantage, view<const T, 2> lp /*[b,t]*/, view<const T, 2> old /*[b,t]*/,
                  view<const std::uint8_t, 2> mask /*[b,t]*/, index_t b, double threshold) {
  if (advantage >= 0) return true;
  T sum = 0;
  for (index_t t = 0; t < lp.extent(1); ++t) {
    const T difference = old(b, t) - lp(b, t);
    if (mask(b, t) && !std::isnan(difference)) sum += difference;
  }
  return sum / counted_tokens<T>(mask, b) <= T(threshold);
}

/// The entropy that a token needs to be among the `share` most uncertain of the counted ones, by linear interpolation
/// between neighbours.  In float, as the oracle forms it, so that a token exactly at the bound is judged alike.
template <class T>
T entropy_threshold(view<const T, 2> entropy /*[b,t]*/, view<const std::uint8_t, 2> mask /*[b,t]*/,
                    double share) {
  expects(share >= 0 && share <= 1,
          "entropy_threshold: the share of tokens must lie in [0, 1], got " + std::to_string(share));
  std::vector<float> sorted;
  for (index_t i = 0; i < entropy.size(); ++i)
    if (mask.data()[i]) sorted.push_back(static_cast<float>(entropy.data()[i]));
  if (sorted.empty()) return -std::numeric_limits<T>::infinity();
  std::sort(sorted.begin(), sorted.end());
  const float rank = static_cast<float>(1 - share) * static_cast<float>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(rank), above = std::min(below + 1, sorted.size() - 1);
  return T(sorted[below] + (rank - static_cast<float>(below)) * (sorted[above] - sorted[below]));
}

/// Weights [b, t] that correct for a sampler whose log-probabilities differ from the trainer's at the same weights (in
/// this library they do not: the weights are 1).  Token by token, or one weight for an answer; never above `cap`.
template <class T>
void importance_weights(ratio_level level, view<const T, 2> old /*[b,t]*/, view<const T, 2> sampler /*[b,t]*/,
                        view<const std::uint8_t, 2> mask /*[b,t]*/, double cap, view<T, 2> weight /*[b,t]*/) {
  policy_ratio<T>(level, old, sampler, mask, weight);
  for (T& w : weight) w = std::min(w, T(cap));
}

}  // namespace dsv4::post
