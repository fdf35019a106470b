// SPDX-License-Identifier: MIT
// exec::cpu, official numerics, accumulate::exact: the same bits as the goldens in every bf16 and
// integer tap, for 1 and 2 threads, in any chunks, alone and in a batch.
#include <dsv4/cpu/cpu.hpp>
#include "golden_run.hpp"

#include "catch.hpp"

namespace dsv4_test::conformance_official_cpu {
namespace {
constexpr double wide_tolerance = 1e-12;  // double sums in another order

const conformance::bundle* open(const char* name) {
  static std::map<std::string, conformance::bundle> bundles;
  const auto dir = golden(std::string("official/") + name);
  return dir ? &bundles.try_emplace(name, conformance::bundle::open(*dir)).first->second : nullptr;
}
void report(const char* name, const conformance::comparer& compare, const std::string& how) {
  for (const auto& f : compare.failures) UNSCOPED_INFO(f);
  INFO(name << ", " << how << ": " << compare.compared << " rows, " << compare.values << " values compared");
  CHECK(compare.failures.empty());
  CHECK(compare.compared > 1000);
}
void check(const char* name, const conformance::bundle& b, const std::vector<dsv4::index_t>& chunks,
           int threads) {
  conformance::comparer compare(b, wide_tolerance);
  conformance::run<dsv4::official, dsv4::exec::cpu>(b, chunks, compare, dsv4::exec::cpu{threads});
  report(name, compare,
         "chunks from " + std::to_string(chunks.front()) + ", threads " + std::to_string(threads));
}
void check_batch(const char* name, const conformance::bundle& b, dsv4::index_t chunk, int threads) {
  conformance::comparer compare(b, wide_tolerance);
  conformance::run_in_batch<dsv4::official, dsv4::exec::cpu>(b, chunk, compare, dsv4::exec::cpu{threads});
  report(name, compare,
         "in a batch, chunk " + std::to_string(chunk) + ", threads " + std::to_string(threads));
}
void check_all(const char* name) {
  const conformance::bundle* b = open(name);
  if (!b) SKIP("golden/official/" << name << " is not here (set DSV4_GOLDEN)");
  for (const int threads : {1, 2}) {
    check(name, *b, {1000}, threads);
    check(name, *b, {1, 2, 3, 5, 8, 13, 21, 34, 55, 89}, threads);
    check_batch(name, *b, 11, threads);
  }
  check(name, *b, {1}, 2);
  check_batch(name, *b, 1, 2);
}
}  // namespace

TEST_CASE("cpu equals flash-mini", "[golden][cpu]") { check_all("flash-mini"); }
TEST_CASE("cpu equals pro-mini", "[golden][cpu]") { check_all("pro-mini"); }
TEST_CASE("cpu equals base-mini", "[golden][cpu]") { check_all("base-mini"); }
TEST_CASE("cpu equals real-ratio", "[golden][cpu]") { check_all("real-ratio"); }
TEST_CASE("cpu equals edge-mini", "[golden][cpu]") { check_all("edge-mini"); }

}  // namespace dsv4_test::conformance_official_cpu
