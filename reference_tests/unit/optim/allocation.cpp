// SPDX-License-Identifier: MIT
// A step allocates nothing once its workspace has seen the size.  The allocator is replaced for this
// executable (glibc) and counts; sanitizers have their own, so there the test is left out.
#include <atomic>
#include <cstddef>

#include "catch.hpp"
#include "dsv4/cpu/optim/muon.hpp"
#include "dsv4/optim/adamw.hpp"
#include "dsv4/optim/clip.hpp"
#include "dsv4/optim/muon.hpp"
#include "executors.hpp"
#include "operands.hpp"

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define DSV4_COUNTS_ALLOCATIONS 1
namespace {
std::atomic<long> taken{0};
}
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void* malloc(std::size_t n) { return ++taken, __libc_malloc(n); }
void* aligned_alloc(std::size_t a, std::size_t n) { return ++taken, __libc_memalign(a, n); }
void* memalign(std::size_t a, std::size_t n) { return ++taken, __libc_memalign(a, n); }
int posix_memalign(void** p, std::size_t a, std::size_t n) {
  return ++taken, (*p = __libc_memalign(a, n)) ? 0 : 12;
}
}
#else
#define DSV4_COUNTS_ALLOCATIONS 0
#endif

namespace dsv4_test {

#if DSV4_COUNTS_ALLOCATIONS
TEMPLATE_TEST_CASE("an optimiser step allocates nothing the second time", "[optim][allocation]",
                   DSV4_TEST_EXECUTORS) {
  integers r{31};
  TestType e;
  workspace scratch;
  const auto check = [&]<class T>(T) {
    const auto g = random_tensor<T>(r, 1, index_t{300}, index_t{150});
    auto m = g, v = g, w = g;
    for (index_t n = 0; n < v.size(); ++n) v.data()[n] = v.data()[n] * v.data()[n];
    const auto flat = [](auto& x) { return x.all().reshape(x.size()); };
    const auto step = [&] {
      const view<T, 1> gradients[] = {flat(m), flat(v)};
      clip_gradients<T>(gradients, 0.5);
      muon_step<T>(e, scratch, g, m, w, 1e-3);
      adamw_step<T>(flat(g), flat(m), flat(v), flat(w), 2, 1e-3);
    };
    step();
    const long before = taken;
    step();
    CHECK(taken - before == 0);
  };
  check(double{});
  check(float{});
}
#endif

}  // namespace dsv4_test
