// SPDX-License-Identifier: MIT
// The complete model on the checkpoint that the project carries, verified against its golden.
//   build/examples/verify_embedded [golden bundle]
// Loads a hub-format checkpoint (FP8, FP4, BF16, F32 tensors), runs prefill, decode and MTP with the
// specification and with the fast executor, and compares every intermediate with what the official
// inference code stored: bit for bit where it stores bf16, 1e-12 where it stores float.
// Exit code 0 if everything agrees, 1 if not.
#include <chrono>
#include <cstdio>
#include <dsv4/dsv4.hpp>

#include "conformance/golden_run.hpp"

namespace {
template <class Exec>
bool verify(const conformance::bundle& bundle, const char* name) {
  conformance::comparer compare(bundle, 1e-12);
  const auto start = std::chrono::steady_clock::now();
  conformance::run<dsv4::official, Exec>(bundle, {static_cast<dsv4::index_t>(bundle.ids.size())}, compare);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf(
      "%-10s %s  %lld rows of taps, %lld values compared in %.2f s, comparison included (%.0f tokens/s)\n",
      name, compare.failures.empty() ? "equal " : "DIFFER", static_cast<long long>(compare.compared),
      static_cast<long long>(compare.values), seconds, double(bundle.ids.size()) / seconds);
  for (const auto& failure : compare.failures) std::printf("  %s\n", failure.c_str());
  return compare.failures.empty() && compare.compared > 0;
}
}  // namespace

int main(int argc, char** argv) try {
  const std::filesystem::path dir =
      argc > 1 ? std::filesystem::path(argv[1]) : test_data("official/flash-mini");
  const auto bundle = conformance::bundle::open(dir);
  std::printf("%s: %lld layers, prefill of %lld tokens, %zu decode steps, MTP\n",
              dir.filename().string().c_str(), static_cast<long long>(bundle.c().num_hidden_layers),
              static_cast<long long>(bundle.prefill), bundle.decode.size());
  const bool ref = verify<dsv4::exec::ref>(bundle, "exec::ref");
  const bool cpu = verify<dsv4::exec::cpu>(bundle, "exec::cpu");
  std::printf(ref && cpu ? "verified: every stored bit of the golden is reproduced\n" : "NOT verified\n");
  return ref && cpu ? 0 : 1;
} catch (const std::exception& e) {
  std::fprintf(stderr, "verify_embedded: %s\n", e.what());
  return 1;
}
