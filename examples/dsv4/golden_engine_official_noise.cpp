// SPDX-License-Identifier: MIT
#include <dsv4/cpu/cpu.hpp>

#include "golden_engine.hpp"

std::vector<dsv4::golden::tensor_entry> cli::noise_official(const dsv4::golden::bundle& golden,
                                                            const dsv4::model_weights<>& weights,
                                                            dsv4::index_t runs, int threads) {
  using executor = dsv4::exec::cpu_fast;
  return dsv4::golden::measure_noise<dsv4::official, executor>(golden, weights, runs,
                                                               golden_executor<executor>(threads));
}
