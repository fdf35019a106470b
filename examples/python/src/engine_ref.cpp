// SPDX-License-Identifier: MIT
#include "engine_impl.hpp"

namespace dsv4_python {

std::unique_ptr<engine> official_ref(const engine_job& job) {
  return open<dsv4::official, dsv4::exec::ref>(job);
}
std::unique_ptr<engine> float32_ref(const engine_job& job) {
  return open<dsv4::float32<>, dsv4::exec::ref>(job);
}

}  // namespace dsv4_python
