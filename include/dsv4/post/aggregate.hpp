// SPDX-License-Identifier: MIT
#pragma once
/// From losses of tokens to one number: the weight of each token.
/// @paper{DSV4, section 5.1; GRPO, BNPO, Dr. GRPO, DAPO}
/// axes     b answer · t token
/// oracle   golden/grpo: every case; extra `accum*`
/// deviates none
///
///   loss = sum_bt W_bt L_bt,   m the loss mask, B answers
///   grpo      W = m / max(sum_t m, 1) / B             mean over answers of the mean over tokens: short answers weigh most
///   bnpo      W = m / max(sum_bt m, 1)                every token of this batch alike
///   dr_grpo   W = m / (B longest)                     a constant: length is neither rewarded nor punished
///   dapo      W = m / max(items, 1)                   as bnpo, but over all batches of the step
///
/// An answer of which nothing counts is still one of the B.  A step of several batches adds their gradients up: the
/// first three divide by their number; dapo has counted all tokens already, and corrects for the batches of one
/// rollout (`steps_per_rollout`) being fewer or more than those of one step.
#include <cstdint>
#include <string>

#include "../core/contract.hpp"
#include "policy_ratio.hpp"

namespace dsv4::post {

enum class loss_kind { grpo, bnpo, dr_grpo, dapo };

struct aggregation {
  loss_kind kind = loss_kind::dapo;
  index_t longest = 0;            ///< dr_grpo: tokens an answer may have
  double items = 0;               ///< dapo: tokens that count in the whole rollout
  index_t batches_per_step = 1;   ///< whose gradients are added up
  index_t steps_per_rollout = 1;  ///< batches that one rollout is cut into
};

/// weight [b, t] of every token in the loss.  @throws contract_violation a size that the kind needs is missing
template <class T>
void token_weights(const aggregation& a, view<const std::uint8_t, 2> mask /*[b,t]*/,
                   view<T, 2> weight /*[b,t]*/) {
  expects(a.batches_per_step >= 1 && a.steps_per_rollout >= 1,
          "token_weights: a step and a rollout have at least one batch");
  expects(a.kind != loss_kind::dr_grpo || a.longest >= 1,
          "token_weights: dr_grpo needs `longest`, the tokens an answer may have");
  expects(a.kind != loss_kind::dapo || a.items >= 0,
          "token_weights: dapo needs `items`, found " + std::to_string(a.items));
  const T answers = T(mask.extent(0)), batches = T(a.batches_per_step);
  T all = 0;
  for (const std::uint8_t m : mask) all += m ? 1 : 0;
  for (index_t b = 0; b < mask.extent(0); ++b) {
    T divisor = 0;
    switch (a.kind) {
      case loss_kind::grpo: divisor = counted_tokens<T>(mask, b) * answers * batches; break;
      case loss_kind::bnpo: divisor = std::max(all, T(1)) * batches; break;
      case loss_kind::dr_grpo: divisor = answers * T(a.longest) * batches; break;
      case loss_kind::dapo: divisor = std::max(T(a.items), T(1)) * batches / T(a.steps_per_rollout); break;
    }
    for (index_t t = 0; t < mask.extent(1); ++t) weight(b, t) = mask(b, t) ? 1 / divisor : T(0);
  }
}

}  // namespace dsv4::post
