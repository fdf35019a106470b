// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>

#include "train_impl.hpp"

// Newton-Schulz in float: 79,000-fold growth of rounding along directions that a gradient hardly has does not matter.
const cli::train_engine cli::train_cpu = cli::train_engine_of<float, dsv4::exec::cpu, dsv4::exec::cpu_fast>;
