// SPDX-License-Identifier: MIT
// dsv4 cost: what one decoded token costs, by length of context, beside DeepSeek-V3.2.
#include <cstdio>
#include <iostream>

#include <nlohmann/json.hpp>

#include <dsv4/io/config_json.hpp>
#include <dsv4/io/hub_layout.hpp>
#include <dsv4/model/cost.hpp>

#include "commands.hpp"

namespace cli {
namespace {

using nlohmann::ordered_json;

struct row {
  index_t context;
  dsv4::decode_operations operations;
  double kv_bytes, operations_ratio, kv_ratio;  // ratios: V3.2 divided by this model
};

std::vector<row> rows_of(const dsv4::config& c, std::vector<index_t> contexts) {
  constexpr index_t shortest = 4096;  // the pre-training's first length
  if (contexts.empty()) {
    for (index_t n = shortest; n < c.max_position_embeddings; n *= 4) contexts.push_back(n);
    contexts.push_back(c.max_position_embeddings);
  }
  std::vector<row> out;
  for (const index_t n : contexts) {
    const auto ours = dsv4::count_decode_operations(c, n);
    const double kv = dsv4::count_kv_bytes(c).at(n);
    out.push_back({n, ours, kv, dsv4::v32::operations(n).fp8_equivalent() / ours.fp8_equivalent(),
                   dsv4::v32::kv_bytes(n) / kv});
  }
  return out;
}

}  // namespace

void cost(const cost_options& o) {
  const dsv4::config c =
      dsv4::io::read_config(o.path.extension() == ".json" ? o.path : o.path / "config.json");
  const auto rows = rows_of(c, o.contexts);
  const auto parameters = dsv4::count_parameters(c);
  double file_bytes = 0;
  for (const dsv4::io::hub_tensor& t : dsv4::io::hub_layout(c)) file_bytes += static_cast<double>(t.bytes());
  const double token_bytes = dsv4::count_decode_bytes(c);

  if (o.json) {
    ordered_json j{{"path", o.path.string()},
                   {"parameters", {{"total", parameters.total}, {"active", parameters.active}}},
                   {"file_bytes", file_bytes},
                   {"weight_bytes_per_token", token_bytes},
                   {"contexts", ordered_json::array()}};
    for (const row& r : rows)
      j["contexts"].push_back({{"context", r.context},
                               {"fp8_products", r.operations.fp8_products},
                               {"bf16_products", r.operations.bf16_products},
                               {"core", r.operations.core},
                               {"index", r.operations.index},
                               {"fp8_equivalent", r.operations.fp8_equivalent()},
                               {"kv_bytes", r.kv_bytes},
                               {"v32_operations_over_ours", r.operations_ratio},
                               {"v32_kv_over_ours", r.kv_ratio}});
    std::cout << j.dump() << '\n';
    return;
  }
  constexpr double giga = 1e9;
  std::printf("parameters  %.1f B, %.1f B active; files %.1f GB; a decoded token reads %.2f GB of weights\n",
              static_cast<double>(parameters.total) / giga, static_cast<double>(parameters.active) / giga,
              file_bytes / giga, token_bytes / giga);
  std::printf("%10s %10s %8s %8s %8s %8s %9s %14s %8s\n", "context", "GFLOP", "FP8", "BF16", "core", "index",
              "KV GB", "V3.2/ops", "V3.2/KV");
  for (const row& r : rows)
    std::printf("%10lld %10.1f %8.1f %8.1f %8.1f %8.1f %9.3f %14.2f %8.2f\n",
                static_cast<long long>(r.context), r.operations.fp8_equivalent() / giga,
                r.operations.fp8_products / giga, r.operations.bf16_products / giga, r.operations.core / giga,
                r.operations.index / giga, r.kv_bytes / giga, r.operations_ratio, r.kv_ratio);
  std::printf(
      "GFLOP: units of FP8 operations; the four parts before their prices (BF16 and core 2, index 1/2)\n");
}

}  // namespace cli
