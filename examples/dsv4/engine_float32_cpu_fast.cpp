// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>

#include "engine_impl.hpp"

const cli::engine cli::float32_cpu_fast = cli::engine_of<dsv4::float32<>, dsv4::exec::cpu_fast>;
