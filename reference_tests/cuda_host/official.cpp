// SPDX-License-Identifier: MIT
// transformer<official, exec::cuda> on the host machine has every bit of the official minis: in one prefill, in chunks and
// token by token, MTP blocks too.
#include <map>

#include "catch.hpp"
#include "conformance/golden_run.hpp"
#include "dsv4/cuda.hpp"
#include "dsv4/model/transformer.hpp"

namespace {
using namespace dsv4;
using dsv4::index_t;

constexpr double wide_tolerance = 1e-12;  // double sums in another order: docs/numerics.md

void check(const char* name, const std::vector<index_t>& chunks, host_machine::schedule how = {}) {
  const auto dir = golden(std::string("official/") + name);
  if (!dir) SKIP("golden/official/" << name << " is not here (set DSV4_GOLDEN)");
  static std::map<std::string, conformance::bundle> bundles;
  const auto& b = bundles.try_emplace(name, conformance::bundle::open(*dir)).first->second;
  host_machine::the_machine().how = how;
  const auto before = host_machine::the_machine().counts;
  conformance::comparer compare(b, wide_tolerance);
  conformance::run<official, exec::cuda>(b, chunks, compare);
  const auto after = host_machine::the_machine().counts;
  for (const auto& f : compare.failures) UNSCOPED_INFO(f);
  INFO(name << ", " << text(how) << ": " << compare.compared << " rows, " << compare.values
            << " values compared; " << after.launches - before.launches << " launches, "
            << after.threads - before.threads << " threads");
  CHECK(compare.failures.empty());
  CHECK(compare.compared > 1000);
  CHECK(after.launches > before.launches);
}
}  // namespace

TEST_CASE("cuda equals flash-mini", "[golden][cuda]") { check("flash-mini", {1000}); }
TEST_CASE("cuda equals pro-mini", "[golden][cuda]") {
  check("pro-mini", {1000}, {host_machine::order::reverse, 1});
}
TEST_CASE("cuda equals base-mini", "[golden][cuda]") {
  check("base-mini", {1000}, {host_machine::order::priority, 1});
}
TEST_CASE("cuda equals real-ratio", "[golden][cuda]") {
  check("real-ratio", {1000}, {host_machine::order::random, 1});
}
TEST_CASE("cuda equals edge-mini", "[golden][cuda]") { check("edge-mini", {1000}); }
TEST_CASE("cuda equals flash-mini in chunks", "[golden][cuda][chunks]") {
  check("flash-mini", {7, 1, 12, 1000}, {host_machine::order::priority, 2});
}
