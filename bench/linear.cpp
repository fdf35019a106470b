// SPDX-License-Identifier: MIT
// Products with Flash-shaped weights: GFLOP/s, bytes per second, and both against the machine's own ceilings
// measured in the same run (Eigen sgemm, an FMA loop, a read of memory).
//
//   bench/linear --summary        the targets of the project, one line each, PASS or FAIL     (~2 minutes)
//   bench/linear [google flags]   every product x mode x threads x tokens, as Google Benchmark counters
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <dsv4/cpu/op/act_quant.hpp>
#include <dsv4/cpu/op/linear.hpp>

#include "machine.hpp"

namespace dsv4 {
namespace {
using namespace bench;

// ---- products ---------------------------------------------------------------------------------------------------

enum class input { quantised, bf16 };

struct product {
  const char* name;
  dtype type;
  index_t rows, cols, groups;
  input x;
};

// Shapes of DeepSeek-V4-Flash (the head: an eighth of it).
constexpr product products[] = {
    {"wq_a", dtype::f8_e4m3, 1024, 4096, 1, input::quantised},
    {"wq_b", dtype::f8_e4m3, 32768, 1024, 1, input::quantised},
    {"wkv", dtype::f8_e4m3, 512, 4096, 1, input::quantised},
    {"wo_a", dtype::f8_e4m3, 8192, 4096, 8, input::bf16},
    {"wo_b", dtype::f8_e4m3, 4096, 8192, 1, input::quantised},
    {"shared.w1", dtype::f8_e4m3, 2048, 4096, 1, input::quantised},
    {"shared.w2", dtype::f8_e4m3, 4096, 2048, 1, input::quantised},
    {"expert.w1", dtype::f4_e2m1, 2048, 4096, 1, input::quantised},
    {"expert.w2", dtype::f4_e2m1, 4096, 2048, 1, input::quantised},
    {"head/8", dtype::bf16, 16384, 4096, 1, input::bf16},
    {"gate", dtype::bf16, 256, 4096, 1, input::bf16},
    {"hc_fn", dtype::f32, 24, 16384, 1, input::bf16},
};

/// Copies of one weight matrix that together exceed every cache, and activations.
class subject {
 public:
  subject(const product& p, index_t tokens, std::size_t working_set) : p_(p), tokens_(tokens) {
    std::mt19937 random(1);
    weight_matrix w;
    w.type = p.type;
    w.rows = p.rows;
    w.cols = p.cols;
    if (w.quantised()) {
      w.tile_rows = p.type == dtype::f8_e4m3 ? fp8_tile : 1;
      w.tile_cols = p.type == dtype::f8_e4m3 ? fp8_tile : fp4_tile_cols;
      scales_.assign(static_cast<std::size_t>(cpu::ceil_div(p.rows, w.tile_rows) * w.scale_cols()),
                     std::byte{121});
      w.scale = scales_.data();
    }
    bytes_ = static_cast<std::size_t>(p.rows * w.row_bytes());
    const std::size_t copies = std::max<std::size_t>(1, working_set / bytes_);
    memory_.resize(bytes_ * copies);
    for (auto& b : memory_) b = static_cast<std::byte>((random() & 0x80) | (0x20 + random() % 0x50));
    for (std::size_t i = 0; i < copies; ++i) {
      w.data = memory_.data() + i * bytes_;
      weights_.push_back(w);
    }
    x_ = tensor<bf16, 2>(tokens, p.cols * p.groups);
    std::normal_distribution<double> normal(0, 1);
    for (bf16& v : x_.all()) v = bf16::encode(normal(random));
    code_ = tensor<e4m3, 2>(tokens, p.cols);
    scale_ = tensor<float, 2>(tokens, p.cols / fp8_tile);
    exec::cpu e;
    if (p.x == input::quantised) act_quant(e, x_.all(), code_.all(), scale_.all());
    y_ = tensor<bf16, 2>(tokens, p.rows);
  }

  template <class E>
  void run(E& e) {
    const weight_matrix& w = weights_[next_++ % weights_.size()];
    kernel::scope<E>::run(e, [&] {
      if (p_.groups > 1)
        grouped_linear(e, x_.all().reshape(tokens_, p_.groups, p_.cols), w,
                       y_.all().reshape(tokens_, p_.groups, p_.rows / p_.groups));
      else if (p_.x == input::quantised)
        linear(e, quantised_activations{code_.all(), scale_.all()}, w, y_.all());
      else
        linear(e, x_.all(), w, y_.all());
    });
    benchmark::DoNotOptimize(y_.data());
  }
  double flop() const { return 2.0 * double(tokens_) * double(p_.rows) * double(p_.cols); }
  double bytes() const { return double(bytes_) + double(scales_.size()); }

 private:
  product p_;
  index_t tokens_;
  std::size_t bytes_ = 0, next_ = 0;
  std::vector<std::byte> scales_, memory_;
  std::vector<weight_matrix> weights_;
  tensor<bf16, 2> x_, y_;
  tensor<e4m3, 2> code_;
  tensor<float, 2> scale_;
};

constexpr std::size_t beyond_cache = std::size_t{192} << 20;

// ---- --summary --------------------------------------------------------------------------------------------------

/// Best of several rounds; in a round every contestant runs once, so that all see the same moments.
struct contest {
  struct entry {
    std::function<double()> rate;
    double best = 0;
  };
  std::map<std::string, entry> entries;

  void run(int rounds) {
    for (int r = 0; r < rounds; ++r)
      for (auto& [name, e] : entries) e.best = std::max(e.best, e.rate());
  }
  double operator[](const std::string& name) const { return entries.at(name).best; }
};

template <class E>
std::function<double()> timed(subject& s, int threads, double least_seconds) {
  return [&s, threads, least_seconds] {
    E e;
    e.threads = threads;
    int n = 0;
    const double start = now(threads == 1);
    double t = 0;
    do {
      s.run(e);
      ++n;
      t = now(threads == 1) - start;
    } while (t < least_seconds);
    return 1e-9 * s.flop() * n / t;
  };
}

int summary(int rounds) {
  int failed = 0;
  const auto verdict = [&](double found, double least, double most) {
    const bool ok = found >= least && found <= most;
    failed += !ok;
    return ok ? "PASS" : "FAIL";
  };
  std::printf(
      "GFLOP/s, best of %d interleaved rounds.  sgemm: Eigen 1024^3; fma: 12 chains of FMA; read: GB/s; all "
      "one thread.\n"
      "One-thread figures count the thread's own time, two-thread figures the wall clock of a machine that "
      "may be busy:\n"
      "fma 2T:1T says what it had to give at that moment.  2T columns: times the rate of one thread.  MEM: "
      "below\n"
      "the target, but at least 3/4 of the memory's rate (read 1T, 2T).\n",
      rounds);
  std::printf("%-10s %4s | %6s %6s %5s %6s | %6s %6s | %-10s %-10s %-10s %-10s %s\n", "product", "t", "sgemm",
              "fma", "read", "read2T", "fast", "exact", "fast/sgemm", "exact time", "exact 2T", "fast 2T",
              "fma 2T:1T, weights GB/s 1T 2T");
  for (const index_t tokens : {index_t{1}, index_t{256}}) {
    for (const product& p : products) {
      subject s(p, tokens, tokens == 1 ? beyond_cache : 0);
      contest c;
      const double least = tokens == 1 ? 0.02 : 0;
      c.entries["sgemm"].rate = [] { return gemm_gflops<float>(1024); };
      c.entries["fma"].rate = [] { return fma_gflops(1); };
      c.entries["fma2"].rate = [] { return fma_gflops(2); };
      c.entries["read"].rate = [] { return read_gbytes(1); };
      c.entries["fast"].rate = timed<exec::cpu_fast>(s, 1, least);
      c.entries["exact"].rate = timed<exec::cpu>(s, 1, least);
      c.entries["read2"].rate = [] { return read_gbytes(2); };
      c.entries["fast2"].rate = timed<exec::cpu_fast>(s, 2, least);
      c.entries["exact2"].rate = timed<exec::cpu>(s, 2, least);
      c.run(rounds);
      const double ratio = c["fast"] / c["sgemm"], slower = c["fast"] / c["exact"],
                   exact_two = c["exact2"] / c["exact"], fast_two = c["fast2"] / c["fast"];
      const double bytes_a_flop = s.bytes() / s.flop();
      const double target = tokens == 1 ? 0.25 : 0.70, weights = c["fast"] * bytes_a_flop;
      const bool projection = p.type == dtype::f8_e4m3;  // the 256-token targets are about these
      // A product of one token that takes 3/4 of what memory gives cannot be made much faster.
      const auto judge = [&](double found, double least_wanted, double gbytes, double memory) {
        const bool at_memory = tokens == 1 && found < least_wanted && gbytes >= 0.75 * memory;
        return at_memory ? "MEM " : verdict(found, least_wanted, 1e9);
      };
      std::printf(
          "%-10s %4ld | %6.1f %6.1f %5.1f %6.1f | %6.1f %6.1f | %4.0f%% %s  %4.2f %s  %4.2f %s  %4.2f %s  "
          "%4.2f  "
          "%5.1f %5.1f\n",
          p.name, long(tokens), c["sgemm"], c["fma"], c["read"], c["read2"], c["fast"], c["exact"],
          100 * ratio, tokens > 1 && !projection ? "-   " : judge(ratio, target, weights, c["read"]), slower,
          tokens > 1 && !projection ? "-   " : verdict(slower, 0, 2.0), exact_two,
          judge(exact_two, 1.7, c["exact2"] * bytes_a_flop, c["read2"]), fast_two,
          judge(fast_two, 1.7, c["fast2"] * bytes_a_flop, c["read2"]), c["fma2"] / c["fma"], weights,
          c["fast2"] * bytes_a_flop);
      std::fflush(stdout);
    }
  }
  std::printf("%d of the checks fail\n", failed);
  return failed != 0;
}

// ---- Google Benchmark -------------------------------------------------------------------------------------------

template <class E>
void measure(benchmark::State& state, const product& p, index_t tokens, int threads) {
  product q = p;
  constexpr bool reference = std::is_same_v<E, exec::ref>;
  if (reference) q.rows = std::min<index_t>(q.rows, 64) * q.groups;
  subject s(q, tokens, reference ? 0 : beyond_cache);
  E e;
  if constexpr (!reference) e.threads = threads;
  for (auto _ : state) s.run(e);
  const double n = double(state.iterations());
  static const double sgemm =
      std::max({gemm_gflops<float>(1024), gemm_gflops<float>(1024), gemm_gflops<float>(1024)});
  static const double read = std::max({read_gbytes(1), read_gbytes(1), read_gbytes(1)});
  using counter = benchmark::Counter;
  state.counters["GFLOP/s"] = counter(1e-9 * s.flop() * n, counter::kIsRate);
  state.counters["GB/s"] = counter(1e-9 * s.bytes() * n, counter::kIsRate);
  state.counters["%sgemm"] = counter(1e-7 * s.flop() * n / sgemm, counter::kIsRate);
  state.counters["%memory"] = counter(1e-7 * s.bytes() * n / read, counter::kIsRate);
}

void add_all() {
  benchmark::RegisterBenchmark("machine/sgemm", [](benchmark::State& state) {
    double best = 0;
    for (auto _ : state) best = std::max(best, gemm_gflops<float>(1024));
    state.counters["GFLOP/s"] = best;
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("machine/dgemm", [](benchmark::State& state) {
    double best = 0;
    for (auto _ : state) best = std::max(best, gemm_gflops<double>(1024));
    state.counters["GFLOP/s"] = best;
  })->Unit(benchmark::kMillisecond);
  for (const product& p : products)
    for (const index_t tokens : {1, 4, 16, 64, 256}) {
      const auto add = [&]<class E>(const char* mode, int threads, E) {
        const std::string name = std::string(p.name) + "/" + mode + "/t:" + std::to_string(tokens) +
                                 "/threads:" + std::to_string(threads);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [=](benchmark::State& state) { measure<E>(state, p, tokens, threads); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime();
      };
      if (tokens <= 4) add("ref", 1, exec::ref{});
      for (const int threads : {1, 2}) {
        add("exact", threads, exec::cpu{});
        add("fast", threads, exec::cpu_fast{});
      }
    }
}

}  // namespace
}  // namespace dsv4

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--summary") == 0)
    return dsv4::summary(argc > 2 ? std::atoi(argv[2]) : 15);
  dsv4::add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
