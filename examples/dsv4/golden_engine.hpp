// SPDX-License-Identifier: MIT
#pragma once
/// golden::record and golden::measure_noise behind functions: one policy and executor per file
/// (golden_engine_*.cpp).
#include <dsv4/golden/make/noise.hpp>
#include <dsv4/golden/make/record.hpp>
#include <dsv4/io/checkpoint.hpp>

namespace cli {

struct golden_job {
  const dsv4::config& config;
  const dsv4::model_weights<>& weights;
  const dsv4::golden::run_plan& plan;
  dsv4::golden::bundle_writer& to;
  const dsv4::golden::record_options& options;
  int threads = 0;
};
/// Returns the number of tensors recorded.
using golden_record = dsv4::index_t(const golden_job&);
golden_record record_official_ref, record_official_cpu, record_float32_ref, record_float32_cpu;

/// The bundle's entries with measured noise.
using golden_noise = std::vector<dsv4::golden::tensor_entry>(const dsv4::golden::bundle&,
                                                             const dsv4::model_weights<>&, dsv4::index_t runs,
                                                             int threads);
golden_noise noise_official, noise_float32;

/// What a manifest says of a checkpoint's weights: the recipe that makes every byte of them, or their files (`hash`:
/// with the SHA-256 of each, which reads all of them).
dsv4::golden::weights_identity weights_identity_of(const dsv4::io::checkpoint& model, bool hash);

template <class E>
E golden_executor(int threads) {
  E e{};
  if constexpr (requires { e.threads; }) e.threads = threads;
  return e;
}
template <class P, class E>
dsv4::index_t record_with(const golden_job& j) {
  return dsv4::golden::record<P, E>(j.config, j.weights, j.plan, j.to, j.options,
                                    golden_executor<E>(j.threads));
}

}  // namespace cli
