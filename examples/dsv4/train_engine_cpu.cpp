// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>

#include "train_impl.hpp"

// Newton-Schulz in float: 79,000-fold growth of rounding along directions that a gradient hardly has does not matter.
std::unique_ptr<cli::train_session> cli::open_training_cpu(train_input&& in) {
  return open_session_of<float, dsv4::exec::cpu, dsv4::exec::cpu_fast>(std::move(in));
}
