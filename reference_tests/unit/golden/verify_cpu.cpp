// SPDX-License-Identifier: MIT
// No false alarms: exec::cpu on any number of threads is the golden bit for bit, exec::cpu_fast is faithful
// operator by operator, and float32 runs pass freely.
#include <tbb/global_control.h>

#include <dsv4/cpu/cpu.hpp>

#include "dsv4/golden/judge/verify.hpp"
#include "dsv4/golden/report/report_text.hpp"
#include "golden_test.hpp"

namespace dsv4_test {

using golden::bundle;
using golden::tolerance_policy;
using golden::verify_mode;

namespace {
template <numerics_policy P, class E>
bundle recorded(const random_model& m, const fs::path& to, E e) {
  golden::bundle_writer w(to, about_of(m.c, P::quantised));
  golden::record<P, E>(m.c, m.weights, {{random_ids(40, m.c.vocab_size, 5)}, 6, {}, true}, w, {}, e);
  w.finish();
  return bundle::open(to);
}
}  // namespace

TEST_CASE("clean dumps of cpu never alarm") {
  scratch_folder dir;
  const random_model m{tiny_config(), published, 3};
  const bundle golden_bundle = recorded<official>(m, dir / "golden.v4gold", exec::ref{});
  golden::verify_options o;
  o.weights = &m.weights;
  // oneTBB starts no more threads than there are processors unless it is told to.
  const tbb::global_control real(tbb::global_control::max_allowed_parallelism, 8);
  for (const int threads : {1, 2, 3, 4, 8}) {
    const bundle test =
        recorded<official>(m, dir / ("cpu" + std::to_string(threads) + ".v4gold"), exec::cpu{threads});
    for (const auto mode : {verify_mode::free_running, verify_mode::forced})
      for (const auto policy : {tolerance_policy::strict, tolerance_policy::faithful}) {
        o.mode = mode, o.policy = policy;
        const auto r = golden::verify(golden_bundle, test, o);
        INFO(golden::report_text(r));
        CHECK(r.exit_code == 0);
      }
  }
}

TEST_CASE("float32 runs of both executors pass freely") {
  scratch_folder dir;
  const random_model m{tiny_config(), all_f32, 4};
  const bundle golden_bundle = recorded<float32<>>(m, dir / "golden.v4gold", exec::ref{});
  golden::verify_options o;
  o.weights = &m.weights;
  const auto r = golden::verify(golden_bundle, recorded<float32<>>(m, dir / "cpu.v4gold", exec::cpu{2}), o);
  INFO(golden::report_text(r));
  CHECK(r.mode == verify_mode::free_running);
  CHECK(r.exit_code == 0);
}

}  // namespace dsv4_test
