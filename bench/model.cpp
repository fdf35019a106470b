// SPDX-License-Identifier: MIT
// The complete model: prefill and decode, exec::ref against exec::cpu.
//   build/bench/model [CHECKPOINT] [--benchmark_filter=...]
// CHECKPOINT: a hub directory; default golden/official/real-ratio beside the checkout, else the embedded
// flash-mini.  Tokens of a prefill: 512.  `per_ref` of the last table is exec::ref's time over cpu's.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <dsv4/dsv4.hpp>
#include <filesystem>
#include <map>

namespace {
using namespace dsv4;
using dsv4::index_t;

constexpr index_t prefill_tokens = 512;
io::checkpoint* loaded;
std::map<std::string, double> best;  // seconds of the fastest repetition

std::vector<std::int32_t> tokens(index_t n) {
  std::vector<std::int32_t> ids;
  for (index_t i = 0; i < n; ++i)
    ids.push_back(static_cast<std::int32_t>((i * 2654435761u >> 7) %
                                            static_cast<std::uint64_t>(loaded->configuration().vocab_size)));
  return ids;
}

template <class P, class E>
void prefill(benchmark::State& state, E e, index_t n, const char* key) {
  transformer<P, E> model(loaded->configuration(), loaded->weights(), e);
  auto s = model.new_sequence(n);
  const auto ids = tokens(n);
  tensor<wide_t<E>, 2> logits(1, loaded->configuration().vocab_size);
  const typename transformer<P, E>::input in{&s, ids};
  for (auto _ : state) {
    s.reset();
    const auto start = std::chrono::steady_clock::now();
    model.forward(std::span(&in, 1), {{}, logits});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    auto& b = best[key];
    b = b > 0 ? std::min(b, seconds) : seconds;
  }
  state.counters["tok/s"] = benchmark::Counter(double(n * state.iterations()), benchmark::Counter::kIsRate);
}

template <class P, class E>
void decode(benchmark::State& state, E e) {
  transformer<P, E> model(loaded->configuration(), loaded->weights(), e);
  const index_t prompt = 256, room = 2048;
  auto s = model.new_sequence(room, 1);
  const auto ids = tokens(room);
  tensor<wide_t<E>, 2> logits(1, loaded->configuration().vocab_size);
  const auto run = [&](index_t from, index_t count) {
    const typename transformer<P, E>::input in{&s,
                                               std::span(ids).subspan(std::size_t(from), std::size_t(count))};
    model.forward(std::span(&in, 1), {{}, logits});
  };
  run(0, prompt);
  for (auto _ : state) {
    if (s.length() == room) {
      state.PauseTiming();
      s.reset();
      run(0, prompt);
      state.ResumeTiming();
    }
    run(s.length(), 1);
  }
  state.counters["tok/s"] = benchmark::Counter(double(state.iterations()), benchmark::Counter::kIsRate);
}
}  // namespace

int main(int argc, char** argv) try {
  benchmark::Initialize(&argc, argv);
  std::filesystem::path dir = argc > 1 ? argv[1] : DSV4_SOURCE_DIR "/../shared/golden/official/real-ratio";
  if (!std::filesystem::exists(dir)) dir = DSV4_SOURCE_DIR "/reference_tests/data/official/flash-mini";
  auto checkpoint = io::checkpoint::open(dir);
  loaded = &checkpoint;
  std::printf("%s, 512-token prefill, decode after 256 tokens\n", dir.string().c_str());

  using benchmark::RegisterBenchmark;
  const auto ms = benchmark::kMillisecond;
  RegisterBenchmark("prefill/ref", [](auto& s) { prefill<official>(s, exec::ref{}, prefill_tokens, "ref"); })
      ->Unit(ms)
      ->Iterations(1);
  for (const int threads : {1, 2}) {
    const std::string t = "/" + std::to_string(threads);
    RegisterBenchmark(("prefill/exact" + t).c_str(),
                      [=](auto& s) {
                        prefill<official>(s, exec::cpu{threads}, prefill_tokens,
                                          threads == 1 ? "exact 1" : "exact 2");
                      })
        ->Unit(ms)
        ->UseRealTime();
    RegisterBenchmark(("prefill/fast" + t).c_str(),
                      [=](auto& s) {
                        prefill<official>(s, exec::cpu_fast{threads}, prefill_tokens,
                                          threads == 1 ? "fast 1" : "fast 2");
                      })
        ->Unit(ms)
        ->UseRealTime();
    RegisterBenchmark(("decode/exact" + t).c_str(), [=](auto& s) { decode<official>(s, exec::cpu{threads}); })
        ->Unit(ms)
        ->UseRealTime();
    RegisterBenchmark(("decode/fast" + t).c_str(),
                      [=](auto& s) { decode<official>(s, exec::cpu_fast{threads}); })
        ->Unit(ms)
        ->UseRealTime();
  }
  benchmark::RunSpecifiedBenchmarks();
  for (const auto& [key, seconds] : best)
    if (best.count("ref"))
      std::printf("prefill %-8s %9.1f ms   ref / this = %6.1f\n", key.c_str(), seconds * 1e3,
                  best["ref"] / seconds);
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
