// SPDX-License-Identifier: MIT
#pragma once
// What the machine can do at this moment: clocks, Eigen's gemm, an FMA loop, a read of memory.
#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <array>
#include <ctime>
#include <functional>
#include <map>
#include <vector>

#include <dsv4/cpu/parallel.hpp>
#include <dsv4/cpu/simd.hpp>

namespace dsv4::bench {

/// Time of this thread alone where the system has such a clock: other programs on the core do not count.
/// With more threads only the wall clock tells.
inline double now(bool one_thread) {
  timespec t;
  clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

inline double seconds(const std::function<void()>& f, bool one_thread = true) {
  const double start = now(one_thread);
  f();
  return now(one_thread) - start;
}

template <class T>
double gemm_gflops(index_t n) {
  using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  static std::map<index_t, std::array<matrix, 3>> of;
  auto& [a, b, c] = of[n];
  if (a.rows() != n) {
    a = matrix::Random(n, n);
    b = matrix::Random(n, n);
    c = matrix::Zero(n, n);
  }
  const double s = seconds([&] { c.noalias() = a * b.transpose(); });
  benchmark::DoNotOptimize(c.data());
  return 2e-9 * double(n) * double(n) * double(n) / s;
}

/// 12 independent chains of FMA: the peak of one core, or of two.
inline double fma_gflops(int threads) {
  constexpr index_t rounds = 1'000'000, chains = 12;
  exec::cpu e{threads};
  const double s = seconds(
      [&] {
        kernel::scope<exec::cpu>::run(e, [&] {
          cpu::parallel_tasks(threads, [&](index_t) {
            simd::f32x8 sum[chains];
            const auto a = simd::set(0.999f), b = simd::set(1e-3f);
            DSV4_UNROLL
            for (index_t j = 0; j < chains; ++j) sum[j] = simd::set(float(j + 1));
            for (index_t i = 0; i < rounds; ++i) {
              DSV4_UNROLL
              for (index_t j = 0; j < chains; ++j) sum[j] = simd::fma(sum[j], a, b);
            }
            float total = 0;
            DSV4_UNROLL
            for (index_t j = 0; j < chains; ++j) total += simd::sum(sum[j]);
            benchmark::DoNotOptimize(total);
          });
        });
      },
      threads == 1);
  return 2e-9 * 8 * double(chains) * double(rounds) * threads / s;
}

/// Reading 512 MiB once, GB/s.
inline double read_gbytes(int threads) {
  static const std::vector<std::uint64_t> memory(std::size_t{64} << 20, 1);
  exec::cpu e{threads};
  const double s = seconds(
      [&] {
        kernel::scope<exec::cpu>::run(e, [&] {
          cpu::parallel_for(static_cast<index_t>(memory.size()), 1 << 16, [&](index_t begin, index_t end) {
            std::uint64_t sum[8] = {};
            for (index_t i = begin; i + 8 <= end; i += 8)
              for (int j = 0; j < 8; ++j) sum[j] += memory[static_cast<std::size_t>(i + j)];
            benchmark::DoNotOptimize(sum);
          });
        });
      },
      threads == 1);
  return 8e-9 * double(memory.size()) / s;
}

}  // namespace dsv4::bench
