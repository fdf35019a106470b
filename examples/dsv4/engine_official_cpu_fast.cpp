// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>

#include "engine_impl.hpp"

const cli::engine cli::official_cpu_fast = cli::engine_of<dsv4::official, dsv4::exec::cpu_fast>;
