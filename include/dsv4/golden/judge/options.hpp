// SPDX-License-Identifier: MIT
#pragma once
/// What a verification is asked: mode, tolerances, and which tensors, layers and positions.
#include <limits>
#include <optional>
#include <set>
#include <string>

#include "../../model/weights.hpp"
#include "result.hpp"

namespace dsv4::golden {

/// Half-open; everything by default.
struct index_range {
  index_t from = 0, to = std::numeric_limits<index_t>::max();
  bool has(index_t i) const { return from <= i && i < to; }
};

struct verify_options {
  std::optional<verify_mode> mode;  ///< none: forced for official numerics unless strict, else free
  tolerance_policy policy = tolerance_policy::faithful;
  double k_noise = 8;
  std::string only;               ///< regular expression over names, searched anywhere; empty: all
  std::string allow_skip = "^$";  ///< names that the test need not have
  std::set<std::string> absent;   ///< the same, whole: what its engine is known not to have (name_map.hpp)
  index_range layers, positions;
  bool werror = false;
  bool hints = true;
  /// Forced mode recomputes with these.
  const model_weights<>* weights = nullptr;
};

}  // namespace dsv4::golden
