// SPDX-License-Identifier: MIT
#pragma once
/// Threads of exec::cpu: a loop cut into fixed pieces, the arena a call runs in, scratch per thread.
/// axes     n units of work (row tiles, tokens, heads)
/// oracle   the same loop on one thread, bit for bit
///
/// Threads never change results: a piece computes whole outputs, each in its own canonical order, so
/// where the cuts fall and who runs a piece does not matter.  Pieces are more than threads (4 each),
/// so that a thread that lost its core for a moment does not hold up the others.
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "../core/exec.hpp"
#include "../core/tensor.hpp"

namespace dsv4 {

namespace cpu {

inline constexpr index_t pieces_per_thread = 4;

/// How many pieces of size b cover a.
constexpr index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }

/// Threads that a parallel_for started here may use.
inline index_t concurrency() { return tbb::this_task_arena::max_concurrency(); }

/// Calls f(begin, end) for pieces that cover [0, n).  A piece is never smaller than `grain`, unless all of [0, n) is.
template <class F>
void parallel_for(index_t n, index_t grain, F f) {
  const index_t threads = concurrency();
  const index_t pieces = std::min(n / std::max<index_t>(grain, 1), threads * pieces_per_thread);
  if (threads == 1 || pieces <= 1) {
    if (n > 0) f(index_t{0}, n);
    return;
  }
  tbb::parallel_for(
      index_t{0}, pieces, [&](index_t p) { f(n * p / pieces, n * (p + 1) / pieces); },
      tbb::simple_partitioner{});
}

/// Calls f(i) for every i in [0, n), each as a task of its own: for work of 10 us and more whose parts differ in size.
template <class F>
void parallel_tasks(index_t n, F f) {
  if (concurrency() == 1 || n <= 1)
    for (index_t i = 0; i < n; ++i) f(i);
  else
    tbb::parallel_for(index_t{0}, n, f, tbb::simple_partitioner{});
}

/// Scratch of the calling thread.  Take from it inside a workspace::scope; the memory stays, so a call
/// of a size seen before allocates nothing.
inline workspace& local_scratch() {
  thread_local workspace scratch;
  return scratch;
}

/// The arena with this many threads, made once.
inline tbb::task_arena& arena_of(int threads) {
  static std::mutex mutex;
  static std::unordered_map<int, std::unique_ptr<tbb::task_arena>> arenas;
  const std::lock_guard lock(mutex);
  auto& arena = arenas[threads];
  if (!arena) arena = std::make_unique<tbb::task_arena>(threads);
  return *arena;
}

}  // namespace cpu

namespace kernel {
/// threads == 0: the arena of the caller, which by default is the whole machine.
template <accumulate A>
struct scope<exec::basic_cpu<A>> {
  template <class F>
  static void run(exec::basic_cpu<A>& e, F&& f) {
    if (e.threads <= 0 || e.threads == cpu::concurrency())
      f();
    else
      cpu::arena_of(e.threads).execute([&] { f(); });
  }
};
}  // namespace kernel

}  // namespace dsv4
