// SPDX-License-Identifier: MIT
#pragma once
/// Anticipatory routing: experts of step t are chosen by the parameters of step t - delay, while everything else,
/// gate weights included, uses those of step t; and the detector that switches it on.
/// @paper{DSV4, section 4.2.3}
/// deviates the report gives neither the delay nor the detector, the rollback nor the duration: all are settings
///
///   normal --spike--> back to the last snapshot --> anticipatory for `duration` steps --> normal
///
/// At step t the batch of step t + delay runs forward with today's parameters; its choices wait in a queue until it is
/// trained on.  After switching on, the first `delay` batches can only have choices of that moment.
/// A step whose loss is above mean + spike deviations (over about the last `memory` steps) is a spike; its gradient is
/// dropped.  Steps and data go back together with the weights, so the same batches come again, routed otherwise.
#include <algorithm>
#include <cmath>

#include "../core/view.hpp"

namespace dsv4::trainer {

enum class anticipate { never, on_spike, always };

struct anticipatory_settings {
  anticipate when = anticipate::never;
  index_t delay = 1;            ///< steps between choosing experts and using them
  double spike = 6;             ///< deviations above the mean; 0: no detector
  double memory = 100;          ///< steps that mean and deviation remember
  index_t quiet = 100;          ///< the first steps of a run, in which nothing counts as a spike
  index_t snapshot_every = 25;  ///< steps between snapshots in memory
  index_t duration = 100;       ///< steps of anticipatory routing after a spike
  index_t most_rollbacks = 10;  ///< after which spikes are only reported
};

/// Running mean and deviation of the loss (exponentially weighted); all its state is plain numbers.
struct spike_detector {
  double mean = 0, variance = 0;
  index_t count = 0;

  /// Whether `loss` is far above what is usual, or not a number.  Asking does not make it part of what is usual.
  bool is_spike(double loss, const anticipatory_settings& s) const {
    if (!std::isfinite(loss)) return true;
    return s.spike > 0 && count >= s.quiet && loss > mean + s.spike * std::sqrt(variance);
  }
  void remember(double loss, const anticipatory_settings& s) {
    // The first steps all have the same weight, so that the very first one does not dominate the mean for long.
    const double weight = 1 / std::min(static_cast<double>(++count), s.memory);
    const double off = loss - mean;
    mean += weight * off;
    variance = (1 - weight) * (variance + weight * off * off);
  }
};

}  // namespace dsv4::trainer
