// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>

#include "engine_impl.hpp"

namespace dsv4_python {

std::unique_ptr<engine> official_cpu(const engine_job& job) {
  return open<dsv4::official, dsv4::exec::cpu>(job);
}
std::unique_ptr<engine> official_cpu_fast(const engine_job& job) {
  return open<dsv4::official, dsv4::exec::cpu_fast>(job);
}

}  // namespace dsv4_python
