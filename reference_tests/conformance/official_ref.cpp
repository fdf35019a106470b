// SPDX-License-Identifier: MIT
// exec::ref, official numerics: every bf16 and integer tap of golden/official equal bit for bit, every
// float tap within 1e-12 of the tap's largest magnitude, in one prefill call, in any chunks, in every
// decode step and in MTP.
#include "golden_run.hpp"

#include "catch.hpp"

namespace dsv4_test::conformance_official_ref {
namespace {
constexpr double wide_tolerance = 1e-12;  // double sums in another order: docs/numerics.md

void check(const char* name, const std::vector<dsv4::index_t>& chunks) {
  const auto dir = golden(std::string("official/") + name);
  if (!dir) SKIP("golden/official/" << name << " is not here (set DSV4_GOLDEN)");
  static std::map<std::string, conformance::bundle> open;
  const auto& b = open.try_emplace(name, conformance::bundle::open(*dir)).first->second;
  conformance::comparer compare(b, wide_tolerance);
  conformance::run<dsv4::official, dsv4::exec::ref>(b, chunks, compare);
  for (const auto& f : compare.failures) UNSCOPED_INFO(f);
  INFO(name << ": " << compare.compared << " rows, " << compare.values << " values compared");
  CHECK(compare.failures.empty());
  CHECK(compare.compared > 1000);
}
}  // namespace

TEST_CASE("ref equals flash-mini", "[golden][ref]") { check("flash-mini", {1000}); }
TEST_CASE("ref equals pro-mini", "[golden][ref]") { check("pro-mini", {1000}); }
TEST_CASE("ref equals base-mini", "[golden][ref]") { check("base-mini", {1000}); }
TEST_CASE("ref equals real-ratio", "[golden][ref]") { check("real-ratio", {1000}); }
TEST_CASE("ref equals edge-mini", "[golden][ref]") { check("edge-mini", {1000}); }

TEST_CASE("ref equals flash-mini in chunks", "[golden][ref][chunks]") {
  check("flash-mini", {1, 2, 3, 5, 8, 13, 21});
  check("flash-mini", {1});
  check("flash-mini", {5, 1, 9, 3, 2, 130});
}
TEST_CASE("ref equals pro-mini in chunks", "[golden][ref][chunks]") {
  check("pro-mini", {1, 2, 3, 5, 8, 13, 21});
}
TEST_CASE("ref equals base-mini in chunks", "[golden][ref][chunks]") {
  check("base-mini", {1, 2, 3, 5, 8, 13, 21});
}
TEST_CASE("ref equals real-ratio in chunks", "[golden][ref][chunks]") {
  check("real-ratio", {1, 2, 3, 5, 8, 13, 21, 34, 55, 89});
}
TEST_CASE("ref equals edge-mini in chunks", "[golden][ref][chunks]") {
  check("edge-mini", {1, 2, 3, 5, 8, 13, 21, 34, 55, 89});
}

}  // namespace dsv4_test::conformance_official_ref
