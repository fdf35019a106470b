// SPDX-License-Identifier: MIT
#pragma once
/// The learning rate of a step: it rises linearly, stays constant, and falls along a cosine.
/// @paper{DSV4, section 4.2.2}
/// axes     none
/// oracle   closed form
/// deviates none; the report leaves open where the decay begins and ends, so both are the caller's
///
///   steps 1 .. warmup        peak step / warmup
///   .. decay_begin           peak
///   .. decay_end             final + (peak - final) (1 + cos(pi x)) / 2,  x from 0 to 1
///   after                    final
/// @post (1) at(warmup) = at(decay_begin) = peak, at(decay_end) = final, exactly   (2) never rises after warmup
#include <cmath>
#include <numbers>

#include "../core/contract.hpp"

namespace dsv4 {

/// Defaults of the rates and of the warm-up: DeepSeek-V4-Flash.
struct learning_rate_schedule {
  double peak = 2.7e-4;
  double final = 2.7e-5;
  index_t warmup = 2000;    ///< steps until peak; 0: peak from the first
  index_t decay_begin = 0;  ///< the last step at peak; less than warmup: decay follows the warm-up at once
  index_t decay_end = 0;    ///< the first step at final; not after decay_begin: no decay, peak for ever

  /// @throws contract_violation on step < 1.
  double at(index_t step /*from 1*/) const {
    expects(step >= 1, "learning_rate_schedule: steps count from 1");
    const index_t begin = decay_begin > warmup ? decay_begin : warmup;
    if (step < warmup) return peak * double(step) / double(warmup);
    if (step <= begin || decay_end <= begin) return peak;
    if (step >= decay_end) return final;
    const double x = double(step - begin) / double(decay_end - begin);
    return final + (peak - final) * (1 + std::cos(std::numbers::pi * x)) / 2;
  }
};

}  // namespace dsv4
