// SPDX-License-Identifier: MIT
#pragma once
/// How much likelier an answer has become since it was written: by token, or by answer as a whole.
/// @paper{DSV4, section 5.1; the ratio of a whole answer: GSPO}
/// axes     b answer · t token
/// oracle   golden/grpo: batch0, batch1 (token), extra `sequence` (answer)
/// deviates none
///
///   token      c_t = exp(lp_t - old_t)                                     d c_t / d lp_t = c_t
///   sequence   c = exp(sum_t m (lp_t - old_t) / max(sum_t m, 1))           d c / d lp_t = c m_t / max(sum_t m, 1)
///
/// m is the loss mask.  Where it is 0 the ratio is 1 and has no gradient: what such a token's old log-probability says,
/// be it NaN or minus infinity, does not matter.
/// Without old log-probabilities the answer was written by this very policy: c = 1 exactly, and its gradient is that of
/// exp(lp - constant), not 0.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../core/view.hpp"

namespace dsv4::post {

enum class ratio_level { token, sequence };

/// Tokens of answer b that count, at least 1.
template <class T>
T counted_tokens(view<const std::uint8_t, 2> mask /*[b,t]*/, index_t b) {
  T n = 0;
  for (const std::uint8_t m : mask[b]) n += m ? 1 : 0;
  return std::max(n, T(1));
}

/// old: an empty view means "written by this policy".
template <class T>
void policy_ratio(ratio_level level, view<const T, 2> lp /*[b,t]*/, view<const T, 2> old /*[b,t]*/,
                  view<const std::uint8_t, 2> mask /*[b,t]*/, view<T, 2> ratio /*[b,t]*/) {
  for (index_t b = 0; b < lp.extent(0); ++b) {
    T sum = 0;
    for (index_t t = 0; t < lp.extent(1); ++t) {
      const T difference = mask(b, t) && old.data() ? lp(b, t) - old(b, t) : T(0);
      ratio(b, t) = std::exp(difference);
      sum += difference;
    }
    if (level == ratio_level::sequence)
      std::fill(ratio[b].begin(), ratio[b].end(), std::exp(sum / counted_tokens<T>(mask, b)));
  }
}

/// dlp += what the gradient of the ratios gives it.
template <class T>
void policy_ratio_backward(ratio_level level, view<const T, 2> dratio /*[b,t]*/,
                           view<const T, 2> ratio /*[b,t]*/, view<const std::uint8_t, 2> mask /*[b,t]*/,
                           view<T, 2> dlp /*[b,t]*/) {
  for (index_t b = 0; b < ratio.extent(0); ++b) {
    // One ratio of all tokens collects what each of them wants of it.
    T shared = 0;
    if (level == ratio_level::sequence) {
      for (index_t t = 0; t < ratio.extent(1); ++t)
        if (mask(b, t)) shared += dratio(b, t);
      shared /= counted_tokens<T>(mask, b);
    }
    for (index_t t = 0; t < ratio.extent(1); ++t)
      if (mask(b, t)) dlp(b, t) += (level == ratio_level::token ? dratio(b, t) : shared) * ratio(b, t);
  }
}

}  // namespace dsv4::post
