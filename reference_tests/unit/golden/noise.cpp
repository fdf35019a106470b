// SPDX-License-Identifier: MIT
// Measured noise: what correct executions with other sums differ by, operator by operator.
#include "dsv4/golden/make/noise.hpp"
#include "dsv4/cpu/cpu.hpp"
#include "golden_test.hpp"

namespace dsv4_test {

using golden::bundle;

TEST_CASE("noise of an exact executor is nothing, whatever the order of its sums", "[golden]") {
  const random_model m(tiny_config());
  const scratch_folder dir;
  const auto b = bundle::open(record_random(m, dir / "b"));
  // The exact executor on permuted channels: the official numerics do not depend on the order of sums.
  const auto exact = golden::measure_noise<official, exec::ref>(b, m.weights, 3);
  for (const auto& t : exact) {
    if (t.is_margin() || t.cls == golden::tolerance_class::choice) {
      CHECK(!t.noise);
      continue;
    }
    REQUIRE(t.noise);
    INFO(t.name << " step " << t.step << ": " << t.noise->relL2);
    CHECK(t.noise->runs == 3);
    CHECK(t.noise->relL2 < (t.carrier == dtype::bf16 ? 1e-300 : 1e-13));  // narrow stores: not a bit
  }
  // The manifest keeps it.
  golden::write_manifest(b.path(), b.about(), exact);
  const auto with = bundle::open(b.path());
  CHECK(with.find(0, 0, "layers.1.attn.o")->noise->runs == 3);
  CHECK(golden::check(b.path()).ok());
}

TEST_CASE("noise of float sums is small, and grows with neither depth nor length", "[golden]") {
  const random_model m(tiny_config());
  const scratch_folder dir;
  const auto b = bundle::open(record_random(m, dir / "b"));
  const auto one = golden::measure_noise<official, exec::cpu_fast>(b, m.weights, 1);
  const auto three = golden::measure_noise<official, exec::cpu_fast>(b, m.weights, 3);
  index_t measured = 0, more = 0;
  for (std::size_t i = 0; i < three.size(); ++i) {
    if (!three[i].noise) continue;
    INFO(three[i].name << " step " << three[i].step << ": " << three[i].noise->relL2);
    CHECK(three[i].noise->relL2 >= one[i].noise->relL2);  // the worst of the runs
    // A code of an FP8 input that flips moves a few outputs; sums themselves are 1e-6.
    CHECK(three[i].noise->relL2 < (three[i].carrier == dtype::f64 ? 1e-5 : 0.1));
    measured += three[i].noise->relL2 > 0;
    more += three[i].noise->relL2 > one[i].noise->relL2;
  }
  CHECK(measured > 100);
  CHECK(more > 20);
}

}  // namespace dsv4_test
