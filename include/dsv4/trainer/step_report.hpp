// SPDX-License-Identifier: MIT
#pragma once
/// What a training run tells of a step, and of its held-out part.
#include <optional>

#include "../core/view.hpp"

namespace dsv4::trainer {

struct step_report {
  index_t step = 0;                                          ///< steps done, this one included
  double loss = 0, mtp_loss = 0, balance = 0, index_kl = 0;  ///< means over tokens, in nats
  double learning_rate = 0;
  double gradient_norm = 0;  ///< of all parameters that learn, before clipping
  double busiest_over_mean =
      0;  ///< tokens of the busiest expert over the mean, in the learned gate where it is worst
  index_t tokens = 0;
  double seconds = 0;
  bool anticipatory = false, spike = false, skipped = false;  ///< skipped: the gradient was not finite
  std::optional<index_t> back_to;  ///< after a rollback: how many steps are done now
};

struct evaluation {
  index_t step = 0, tokens = 0, bytes = 0;
  double loss = 0, mtp_loss = 0;  ///< means over tokens, in nats
  double bits_per_byte =
      0;  ///< of the text; the token that begins a document stands for no byte and has no loss
  double busiest_over_mean = 0;  ///< as in step_report
};

}  // namespace dsv4::trainer
