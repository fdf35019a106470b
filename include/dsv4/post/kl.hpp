// SPDX-License-Identifier: MIT
#pragma once
/// Distance from a reference policy, estimated from the tokens that were drawn.
/// @paper{DSV4, section 5.1; estimator k3 of GRPO, its unbiased form of DeepSeek-V3.2}
/// axes     none: one token
/// oracle   golden/grpo: every case with beta > 0
/// deviates none
///
///   u = ref - lp      k = e^u - u - 1 >= 0
///   corrected         k c, c the ratio of policy_ratio.hpp before any clamp
///
/// k has the policy's own tokens as its sample.  Tokens drawn from an older policy are weighted with c, and the gradient
/// goes through c as well: this makes gradient and value unbiased, and bounded where the policy is far below the
/// reference.  (A mask of the policy term does not touch this term.)
#include <cmath>

namespace dsv4::post {

template <class T>
struct kl_estimate {
  T value;
  T dlp;     ///< with the ratio held
  T dratio;  ///< through the ratio
};

template <class T>
kl_estimate<T> k3(T lp, T ref) {
  const T u = ref - lp, likelier = std::exp(u);
  return {likelier - u - 1, 1 - likelier, 0};
}

/// Weighted with the ratio.
template <class T>
kl_estimate<T> corrected_k3(T lp, T ref, T ratio) {
  const kl_estimate<T> k = k3(lp, ref);
  return {k.value * ratio, k.dlp * ratio, k.value};
}

}  // namespace dsv4::post
