// SPDX-License-Identifier: MIT
#pragma once
/// What the instructions behind cuda/device.hpp mean: order between blocks, asynchronous copies, ldmatrix, and products
/// of the tensor cores in the shapes that the kernels use.
///
/// Products are summed in double and rounded once to float.  A tensor core's own accumulator is narrower (FP8 on Hopper:
/// 13 bits of mantissa between promotions), which no host shows: kernels that rely on more are not caught here.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>

#include <dsv4/num/minifloat.hpp>
#include <dsv4/num/round.hpp>
#include "collective.hpp"

namespace dsv4::host_machine {

/// The calling block's shared memory.  @throws fault the launch gave less
inline void* shared_memory(std::size_t bytes, const char* type) {
  const block& b = *self().in;
  if (b.shared_bytes < bytes)
    the_machine().fail("shared_memory: " + std::string(type) + " needs " + std::to_string(bytes) +
                       " bytes, the launch gave " + std::to_string(b.shared_bytes));
  return b.shared;
}

// ---- order between blocks: a load is where a spinning thread lets others work
inline unsigned load(const unsigned* p, std::memory_order order, const char* what, const where& at) {
  const unsigned v = std::atomic_ref<unsigned>(*const_cast<unsigned*>(p)).load(order);
  const tsan::own_memory own;
  the_machine().spin(what, at);
  return v;
}
inline void store(unsigned* p, unsigned v, std::memory_order order) {
  std::atomic_ref<unsigned>(*p).store(v, order);
  the_machine().progress();
}
inline unsigned add(unsigned* p, unsigned v, std::memory_order order) {
  the_machine().progress();
  return std::atomic_ref<unsigned>(*p).fetch_add(v, order);
}

// ---- cp.async: until its group is waited for, the target holds NaN bytes and the source may still change
inline void copy_async(void* to, const void* from, std::size_t bytes, const where& at) {
  thread& t = self();
  const auto aligned = [&](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; };
  if (!aligned(to) || !aligned(from))
    the_machine().fail("copy_async at " + text(at) + ": addresses must be multiples of " +
                       std::to_string(bytes));
  // Words, not memset: GCC expands that after ThreadSanitizer has looked.
  for (std::size_t i = 0; i < bytes / sizeof(std::uint32_t); ++i) static_cast<std::uint32_t*>(to)[i] = ~0u;
  const tsan::own_memory own;
  t.copies.push_back({to, from, bytes, t.group});
}
inline void copy_async_commit() { ++self().group; }
/// Lets arrive what was committed, but for the latest `pending` groups.
inline void copy_async_wait(unsigned pending) {
  thread& t = self();
  for (;;) {
    async_copy c;
    {
      const tsan::own_memory own;
      if (t.copies.empty() || t.copies.front().group + pending >= t.group) return;
      c = t.copies.front();
      t.copies.pop_front();
    }
    for (std::size_t i = 0; i < c.bytes / sizeof(std::uint32_t); ++i)
      static_cast<std::uint32_t*>(c.to)[i] = static_cast<const std::uint32_t*>(c.from)[i];
  }
}

// ---- ldmatrix: `count` 8 x 8 matrices of 16-bit elements; lane 8 m + r gives the address of row r of matrix m, and gets
// of every matrix the elements (lane / 4, 2 (lane % 4) + 0..1)
template <int count>
void load_matrices(unsigned (&registers)[count], const void* row, const where& at) {
  constexpr unsigned words_of_row = 4;
  struct operand {
    std::uint32_t row[words_of_row];
    unsigned* got;
  } mine{{}, registers};
  if (lane_of(self()) < 8 * count) {  // the other lanes' addresses are not looked at
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
      the_machine().fail("ldmatrix at " + text(at) + ": rows begin at multiples of 16 bytes");
    // Read here, by its own thread, so that ThreadSanitizer sees who read what.
    for (unsigned i = 0; i < words_of_row; ++i) mine.row[i] = static_cast<const std::uint32_t*>(row)[i];
  }
  collective("ldmatrix", at, ~0u, mine, [](lanes<operand>& all) {
    for (unsigned l = 0; l < warp_size; ++l)
      for (unsigned m = 0; m < count; ++m) all.of[l]->got[m] = all.of[8 * m + l / 4]->row[l % 4];
  });
}

/// D[16, 8] += A[16, K] B[K, 8] of one warp.  With g = lane / 4, i = lane % 4 and n codes in a register (PTX ISA, mma):
///   a[r] holds A[g + 8 (r % 2)][n i + K/2 (r / 2) + 0..n-1],   b[r] holds B[n i + K/2 r + 0..n-1][g],
///   d[r] is D[g + 8 (r / 2)][2 i + r % 2].
template <int K, class Value>
void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Value&& value, const char* what,
              const where& at) {
  struct operand {
    float* d;
    const unsigned *a, *b;
  } mine{d, a, b};
  constexpr int codes = K / 8, width = 32 / codes;  // in a register; bits of one
  collective(what, at, ~0u, mine, [&](lanes<operand>& all) {
    ++the_machine().counts.products;
    const auto code = [&](unsigned r, int j) {
      return value(
          static_cast<std::uint32_t>(std::uint64_t{r} >> width * j & ((std::uint64_t{1} << width) - 1)));
    };
    double left[16][K], right[8][K];
    for (unsigned l = 0; l < warp_size; ++l) {
      const unsigned g = l / 4, i = l % 4;
      for (unsigned r = 0; r < 4; ++r)
        for (int j = 0; j < codes; ++j)
          left[g + 8 * (r % 2)][codes * i + K / 2 * (r / 2) + j] = code(all.of[l]->a[r], j);
      for (unsigned r = 0; r < 2; ++r)
        for (int j = 0; j < codes; ++j) right[g][codes * i + K / 2 * r + j] = code(all.of[l]->b[r], j);
    }
    for (unsigned l = 0; l < warp_size; ++l)
      for (unsigned r = 0; r < 4; ++r) {
        const double *x = left[l / 4 + 8 * (r / 2)], *y = right[2 * (l % 4) + r % 2];
        double sum = 0;
        for (int k = 0; k < K; ++k) sum += x[k] * y[k];
        all.of[l]->d[r] = static_cast<float>(static_cast<double>(all.of[l]->d[r]) + sum);
      }
  });
}

inline double value_of_e4m3(std::uint32_t code) { return e4m3::from_bits(code).decode(); }
inline double value_of_bf16(std::uint32_t code) { return to_double(bf16::from_bits(code)); }

}  // namespace dsv4::host_machine
