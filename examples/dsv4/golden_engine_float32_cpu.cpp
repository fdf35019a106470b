// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>

#include "golden_engine.hpp"

dsv4::index_t cli::record_float32_cpu(const golden_job& j) {
  return record_with<dsv4::float32<float>, dsv4::exec::cpu>(j);
}
