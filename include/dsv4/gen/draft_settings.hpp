// SPDX-License-Identifier: MIT
#pragma once
/// What a user may say of drafted tokens (gen/speculative.hpp).
#include "../core/view.hpp"

namespace dsv4 {

struct draft_settings {
  index_t depth = 0;       ///< tokens per call; DSpark drafts no more than its block has.  0: none
  double least_trust = 0;  ///< DSpark: a token that its confidence head trusts less is not drafted

  draft_settings(index_t d = 0, double trust = 0) : depth(d), least_trust(trust) {}
};

}  // namespace dsv4
