// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>

#include "engine_impl.hpp"

namespace dsv4_python {

std::unique_ptr<engine> float32_cpu(const engine_job& job) {
  return open<dsv4::float32<>, dsv4::exec::cpu>(job);
}
std::unique_ptr<engine> float32_cpu_fast(const engine_job& job) {
  return open<dsv4::float32<>, dsv4::exec::cpu_fast>(job);
}

}  // namespace dsv4_python
