// SPDX-License-Identifier: MIT
#pragma once
/// What a training run is, between two steps: weights, momenta, routing, and where it stands.  Whoever has this and
/// the settings goes on to the same bits; checkpoint.hpp puts it on disk, a rollback goes back to a copy of it.
#include <vector>

#include "../train/parameters.hpp"
#include "anticipatory.hpp"
#include "dataset.hpp"

namespace dsv4::trainer {

using train::parameter_info, train::parameter_layout, train::routing_tables;

/// A parameter with its place in the buffer of second moments, which holds those that AdamW updates and no others.
struct placed_parameter {
  parameter_info info;
  bool muon = false;
  index_t second = -1;  ///< offset of its second moments; -1: none
};

/// All parameters, and the size of the buffer of second moments.
struct placed_layout {
  parameter_layout layout;
  std::vector<placed_parameter> all;
  index_t second_size = 0;

  /// `only_adamw`: nothing goes to Muon.
  placed_layout(parameter_layout l, bool only_adamw) : layout(std::move(l)) {
    for (const parameter_info& p : layout.all) {
      const bool muon = p.rule == update_rule::muon && !only_adamw;
      all.push_back({p, muon, muon ? -1 : second_size});
      if (!muon) second_size += p.size();
    }
  }
};

template <class T>
struct training_state {
  tensor<T, 1> w, m;  // [layout.size] weights; momenta (Muon) and first moments (AdamW)
  tensor<T, 1> v;     // [second_size] second moments (AdamW)
  routing_tables routing;
  index_t step = 0;  ///< steps done
  cursor data;       ///< where the next batch begins in the data
  spike_detector detector;

  training_state() = default;
  explicit training_state(const placed_layout& p) : w(p.layout.size), m(p.layout.size), v(p.second_size) {}
};

}  // namespace dsv4::trainer
