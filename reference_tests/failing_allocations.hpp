// SPDX-License-Identifier: MIT
#pragma once
/// Allocations that fail when a test says so.  It replaces the program's allocation functions, so exactly one source
/// of a program includes it.
#include <atomic>
#include <cstdlib>
#include <new>

namespace dsv4_test {

/// Allocations until one fails; negative: none does.
inline std::atomic<long> allocations_left{-1};
/// Smaller ones do not count.
inline std::atomic<std::size_t> counted_bytes{0};
/// For calls that handle nlohmann::json, whose destructor allocates (a list of what is to be destroyed, as long as an
/// array or an object) and so ends the program when that fails; nothing that is written here can help it.
inline constexpr std::size_t beyond_json_destructors = 16384;

inline bool allocation_fails(std::size_t bytes) {
  return allocations_left.load() >= 0 && bytes >= counted_bytes.load() && allocations_left.fetch_sub(1) == 0;
}

struct failing {
  bool threw;    ///< std::bad_alloc came out
  bool reached;  ///< there was an n-th allocation; a call may do without what it did not get
};

/// f() while its n-th allocation of at least so many bytes, counted from 0, fails.
template <class F>
failing with_failing_allocation(long n, F&& f, std::size_t at_least = 0) {
  counted_bytes = at_least;
  allocations_left = n;
  bool threw = false;
  try {
    f();
  } catch (const std::bad_alloc&) {
    threw = true;
  } catch (...) {
    allocations_left = -1;
    throw;
  }
  const bool reached = allocations_left.exchange(-1) < 0;
  return {threw, reached};
}

/// How many allocations f() makes.
template <class F>
long allocations_of(F&& f, std::size_t at_least = 0) {
  constexpr long many = 1L << 40;
  counted_bytes = at_least;
  allocations_left = many;
  f();
  return many - allocations_left.exchange(-1);
}

}  // namespace dsv4_test

// Not inline: the compiler would see malloc in the one and not in the other.
[[gnu::noinline]] void* operator new(std::size_t n) {
  if (dsv4_test::allocation_fails(n)) throw std::bad_alloc();
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
// Tensors and scratch take their memory by aligned_alloc; a sanitizer owns that one, and the test does without.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern "C" {
void* __libc_memalign(std::size_t, std::size_t);
void* aligned_alloc(std::size_t a, std::size_t n) {
  return dsv4_test::allocation_fails(n) ? nullptr : __libc_memalign(a, n);
}
}
#endif
