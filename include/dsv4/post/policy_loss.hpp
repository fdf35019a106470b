// SPDX-License-Identifier: MIT
#pragma once
/// The clipped loss of one token: better answers become likelier, but not by more than a step allows.
/// @paper{DSV4, section 5.1; PPO's clipped objective, DAPO's two bounds, dual clipping (delta)}
/// axes     none: one token
/// oracle   golden/grpo: batch0, batch1, extra `delta_*`, `eps_*`
/// deviates none
///
///   c1 = min(c, delta), or c without delta        c2 = c clamped to [1 - low, 1 + high]
///   L  = -min(c1 A, c2 A)
///
/// delta bounds the loss of a token that became far likelier although its answer is bad (A < 0), which the minimum
/// leaves to the first branch; c2 does not know delta.
/// Gradient: a clamp passes it inside its bounds and exactly at them; where both branches are equal each carries half,
/// so that a ratio inside the bounds has the whole.
#include <algorithm>
#include <optional>

namespace dsv4::post {

struct clip_bounds {
  double low = 0.2, high = 0.2;  ///< the ratio may leave 1 by this much below and above
  std::optional<double> delta = {};
};

template <class T>
struct ratio_loss {
  T loss, dratio;
  bool clipped;  ///< the bound decides: no gradient through the ratio
};

template <class T>
ratio_loss<T> clipped_loss(T ratio, T advantage, const clip_bounds& bounds) {
  const T lowest = T(1 - bounds.low), highest = T(1 + bounds.high);
  const T c1 = bounds.delta ? std::min(ratio, T(*bounds.delta)) : ratio,
          c2 = std::clamp(ratio, lowest, highest), first = c1 * advantage, second = c2 * advantage;
  const T passes_first = !bounds.delta || ratio <= T(*bounds.delta) ? 1 : 0,
          passes_second = lowest <= ratio && ratio <= highest ? 1 : 0,
          share = first < second   ? T(1)
                  : first > second ? T(0)
                                   : T(0.5);  // of the first branch
  return {-std::min(first, second), -advantage * (share * passes_first + (1 - share) * passes_second),
          second < first};
}

}  // namespace dsv4::post
