// SPDX-License-Identifier: MIT
// A decode step allocates nothing once the sizes are known.  malloc and its relatives are replaced for
// this executable (glibc) and counted; a sanitizer owns them in its builds, where the test is left out.
#include <dsv4/dsv4.hpp>

#include <atomic>

#include "catch.hpp"
#include "data.hpp"

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
namespace {
std::atomic<long> allocations{0};
}
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t n) { return ++allocations, __libc_malloc(n); }
void* calloc(std::size_t n, std::size_t m) { return ++allocations, __libc_calloc(n, m); }
void* realloc(void* p, std::size_t n) { return ++allocations, __libc_realloc(p, n); }
void* aligned_alloc(std::size_t a, std::size_t n) { return ++allocations, __libc_memalign(a, n); }
void* memalign(std::size_t a, std::size_t n) { return ++allocations, __libc_memalign(a, n); }
int posix_memalign(void** p, std::size_t a, std::size_t n) {
  return ++allocations, (*p = __libc_memalign(a, n)) ? 0 : 12;
}
}

namespace dsv4 {
namespace {
/// Allocations of 32 decode steps after 32 others.
template <execution E>
long allocations_of_decode(E e) {
  const auto checkpoint = io::checkpoint::open(test_data("official/flash-mini"));
  transformer<official, E> model(checkpoint.configuration(), checkpoint.weights(), e);
  auto s = model.new_sequence(128, 4);
  tensor<wide_t<E>, 2> logits(1, model.configuration().vocab_size);
  std::int32_t id = 7;
  const typename transformer<official, E>::input step{&s, std::span<const std::int32_t>(&id, 1)};
  const auto run = [&](int n) {
    for (int i = 0; i < n; ++i, id = (id * 5 + 1) % 512) model.forward(std::span(&step, 1), {{}, logits});
  };
  run(32);
  // Entries grow with the context, and with them the scratch of the indexer: the longest context first.
  run(64);
  s.reset();
  run(32);
  const long before = allocations;
  run(32);
  return allocations - before;
}

/// Allocations between the first and the last token of the second of two equal generations, with and without
/// drafts: penalties, every cut, and log-probabilities on the way.
template <execution E>
long allocations_of_sampling(index_t depth, double temperature) {
  const auto checkpoint = io::checkpoint::open(test_data("official/flash-mini"));
  transformer<official, E> model(checkpoint.configuration(), checkpoint.weights(), E{1});
  const index_t v = model.configuration().vocab_size, made = 40;
  const std::vector<std::int32_t> prompt{1, 5, 9, 100, 3, 77, 500, 12};
  const sampling settings{.temperature = temperature,
                          .top_p = 0.9,
                          .top_k = 50,
                          .min_p = 0.01,
                          .repetition_penalty = 1.1,
                          .penalty_window = 16,
                          .bias = {{3, 1}}};
  auto s = model.new_sequence(64, depth);
  log_probabilities scores(5, v);
  long first = -1, last = -1;
  for (int run = 0; run < 2; ++run) {
    s.reset();
    sampler choose(settings, v, 64);
    mtp_drafter<official, E> drafter(model, depth, depth);
    first = -1;
    const auto count = [&](std::int32_t, view<const wide_t<E>, 1> logits) {
      scores.read(logits);
      last = allocations;
      if (first < 0) first = last;
      return true;
    };
    if (depth > 0)
      generate_speculative(model, s, prompt, {.max_new = made}, choose, drafter, depth, count);
    else
      generate(model, s, std::span<const std::int32_t>(prompt), {.max_new = made}, choose, count);
  }
  return last - first;
}
}  // namespace

TEST_CASE("the counter counts", "[allocation]") {
  const long before = allocations;
  const std::vector<int> v(1000);
  CHECK(v.size() == 1000);
  CHECK(allocations > before);
}
TEST_CASE("a decode step of exec::cpu allocates nothing", "[allocation]") {
  CHECK(allocations_of_decode(exec::cpu{1}) == 0);
  CHECK(allocations_of_decode(exec::cpu_fast{1}) == 0);
}
TEST_CASE("sampling and speculative decoding allocate nothing after the first token", "[allocation]") {
  for (const index_t depth : {0, 1, 4})
    for (const double temperature : {0.0, 1.0}) {
      INFO("depth " << depth << " temperature " << temperature);
      CHECK(allocations_of_sampling<exec::cpu>(depth, temperature) == 0);
      CHECK(allocations_of_sampling<exec::cpu_fast>(depth, temperature) == 0);
    }
}
// With two threads oneTBB keeps pools of task objects per thread; a worker that joins late fills its own.
TEST_CASE("with two threads nothing but oneTBB's own pools grows", "[allocation]") {
  CHECK(allocations_of_decode(exec::cpu{2}) <= 8);
}
}  // namespace dsv4
#else
TEST_CASE("allocations are not counted under a sanitizer", "[allocation]") { SUCCEED(); }
#endif
