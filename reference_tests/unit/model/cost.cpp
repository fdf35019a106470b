// SPDX-License-Identifier: MIT
// Costs of a decoded token, against the ratios that the report prints.
#include <dsv4/model/cost.hpp>

#include <cmath>

#include <dsv4/io/config_json.hpp>
#include <dsv4/io/hub_layout.hpp>

#include "catch.hpp"
#include "data.hpp"

namespace dsv4_test::model_cost {
namespace {

using dsv4::index_t;

dsv4::config published(const char* name) { return dsv4::io::read_config(test_data("configs") / name); }
constexpr index_t million = index_t{1} << 20;

double operations_ratio(const dsv4::config& c) {
  return dsv4::v32::operations(million).fp8_equivalent() /
         dsv4::count_decode_operations(c, million).fp8_equivalent();
}
double kv_ratio(const dsv4::config& c) {
  return dsv4::v32::kv_bytes(million) / dsv4::count_kv_bytes(c).at(million);
}

TEST_CASE("cost: the report's ratios at a million tokens", "[accounting]") {
  const auto flash = published("DeepSeek-V4-Flash.config.json"),
             pro = published("DeepSeek-V4-Pro.config.json");
  // Printed: 9.8 and 3.7 times fewer operations, 13.7 and 9.5 times smaller caches.  One decimal of each is known.
  CHECK(operations_ratio(flash) == Catch::Approx(9.8).margin(0.1));
  CHECK(operations_ratio(pro) == Catch::Approx(3.7).margin(0.05));
  CHECK(kv_ratio(flash) == Catch::Approx(13.7).margin(0.05));
  CHECK(kv_ratio(pro) == Catch::Approx(9.5).margin(0.06));
  // 10 % and 27 % of the operations, 7 % and 10 % of the cache.
  CHECK(std::round(100 / operations_ratio(flash)) == 10);
  CHECK(std::round(100 / operations_ratio(pro)) == 27);
  CHECK(std::round(100 / kv_ratio(flash)) == 7);
  CHECK(std::round(100 / kv_ratio(pro)) == 10);
}

TEST_CASE("cost: parts by hand", "[accounting]") {
  const auto c = published("DeepSeek-V4-Flash.config.json");
  const auto at = dsv4::count_decode_operations(c, million);
  // 21 CSA layers of 512 entries, 20 HCA layers of 8192, all 43 with a window of 128; 64 heads of 512.
  CHECK(at.core == 4.0 * 64 * 512 * (43 * 128 + 21 * 512 + 20 * 8192));
  CHECK(at.index == 2.0 * 64 * 128 * 21 * (million / 4));
  // Every active parameter is one multiplication and one addition, but for norms and positional biases: 1.4e-4.
  const double products = at.fp8_products + at.bf16_products;
  CHECK(products == Catch::Approx(2.0 * double(dsv4::count_parameters(c).active)).epsilon(2e-4));
  // A short context sees less than a window.
  CHECK(dsv4::count_decode_operations(c, 1).core < 4.0 * 64 * 512 * (43 + 21 + 20));
}

TEST_CASE("cost: sizes of the published checkpoints, tensor by tensor", "[accounting]") {
  const auto gigabytes = [](const char* name) {
    double bytes = 0;
    for (const dsv4::io::hub_tensor& t : dsv4::io::hub_layout(published(name))) bytes += double(t.bytes());
    return bytes / 1e9;
  };
  CHECK(std::round(gigabytes("DeepSeek-V4-Flash.config.json")) == 160);
  CHECK(std::round(gigabytes("DeepSeek-V4-Pro.config.json")) == 865);
}

TEST_CASE("cost: bytes of a decoded token are those of the tensors it meets", "[accounting]") {
  const auto c = published("DeepSeek-V4-Flash.config.json");
  double expected = 0;
  for (const dsv4::io::hub_tensor& t : dsv4::io::hub_layout(c)) {
    if (t.name.starts_with("mtp.") || t.name == "embed.weight" || t.type == dsv4::dtype::i64) continue;
    const std::size_t at = t.name.find(".experts.");
    const bool met = at == t.name.npos || std::stoll(t.name.substr(at + 9)) < c.num_experts_per_tok;
    if (met) expected += double(t.bytes());
  }
  CHECK(dsv4::count_decode_bytes(c) == Catch::Approx(expected).epsilon(1e-9));
}

}  // namespace

}  // namespace dsv4_test::model_cost
