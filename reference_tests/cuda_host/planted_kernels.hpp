// SPDX-License-Identifier: MIT
#pragma once
/// Three kernels of the kinds that go wrong on a GPU (a reduction, a pipelined product of tensor cores, blocks that wait
/// for each other), each correct under fault::none and wrong in one known way under every other.  The host machine has to
/// find them all; `planted` runs one of them against plain loops, under every schedule or under the one that is given.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cuda/device.hpp"
#include "dsv4/num/minifloat.hpp"

namespace dsv4_test {

enum class fault {
  none,
  // of the reduction
  no_barrier_before_reading,  // partial sums are read before all are written
  no_barrier_after_reading,   // the next row's partial sums overwrite them while others still read
  divergent_barrier,          // a barrier that only the first warp reaches
  left_before_barrier,        // a thread that returns where the others go on to a barrier
  lane_outside_mask,          // a shuffle from a lane that is not in the mask
  divergent_collective,       // half a warp shuffles, half votes
  read_past_the_end,          // of the row, and with the last row of the array
  write_past_shared,          // one element more than the kernel asked for
  // of the product
  no_wait_for_copies,      // the tile is used while it is on its way
  wait_for_too_few,        // the wait leaves one group more pending than it may
  no_barrier_after_wait,   // a thread's own copies have arrived, the other threads' perhaps not
  overwritten_while_read,  // the next tile goes where a slow warp still reads
  copies_left_behind,      // the kernel ends with copies on their way
  swapped_fragments,       // the two halves of an operand of the tensor core exchanged
  misaligned_copy,         // 16 bytes from an address that is not a multiple of 16
  // of the blocks that wait for each other
  spin_without_cooperation,  // in a launch whose blocks need not run together
  relaxed_flag,              // the flag does not order the values before it (ThreadSanitizer)
};

struct named_fault {
  fault f;
  const char* name;
  const char* report;  // part of what the machine says; "" where the values are wrong
};
inline constexpr named_fault faults[] = {
    {fault::none, "none", ""},
    {fault::no_barrier_before_reading, "no_barrier_before_reading", ""},
    {fault::no_barrier_after_reading, "no_barrier_after_reading", ""},
    {fault::divergent_barrier, "divergent_barrier", "divergent barrier"},
    {fault::left_before_barrier, "left_before_barrier", "left"},
    {fault::lane_outside_mask, "lane_outside_mask", "which is not in the mask"},
    {fault::divergent_collective, "divergent_collective", "divergent __"},
    {fault::read_past_the_end, "read_past_the_end", ""},
    {fault::write_past_shared, "write_past_shared", "past the end of its"},
    {fault::no_wait_for_copies, "no_wait_for_copies", ""},
    {fault::wait_for_too_few, "wait_for_too_few", ""},
    {fault::no_barrier_after_wait, "no_barrier_after_wait", ""},
    {fault::overwritten_while_read, "overwritten_while_read", ""},
    {fault::copies_left_behind, "copies_left_behind", "asynchronous copies"},
    {fault::swapped_fragments, "swapped_fragments", ""},
    {fault::misaligned_copy, "misaligned_copy", "multiples of 16"},
    {fault::spin_without_cooperation, "spin_without_cooperation", "not cooperative"},
    {fault::relaxed_flag, "relaxed_flag", ""},
};

namespace gpu = dsv4::gpu;
using dsv4::index_t;

// ---- a reduction: y[row] = x[row] / sum(x[row]), one block for all rows, one partial sum per warp

inline constexpr int sum_threads = 128, sum_warps = sum_threads / 32;
struct sum_shared {
  float partial[sum_warps];
};
template <fault F>
__global__ void divide_by_sum(const float* x, float* y, int rows, int n) {
  auto& s = *gpu::shared_memory<sum_shared>();
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  for (int row = 0; row < rows; ++row, x += n, y += n) {
    float sum = 0;
    for (int i = t; i < (F == fault::read_past_the_end ? n + 1 : n); i += sum_threads) sum += x[i];
    if constexpr (F == fault::lane_outside_mask) {
      if (lane < 16) sum += __shfl_sync(0xFFFF, sum, 16);
    }
    if constexpr (F == fault::divergent_collective) {
      if (lane < 16)
        sum += __shfl_xor_sync(~0u, sum, 1);
      else
        sum += static_cast<float>(__ballot_sync(~0u, true));
    }
    for (int o = 16; o; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
    if (lane == 0) s.partial[warp + (F == fault::write_past_shared ? 1 : 0)] = sum;
    if constexpr (F == fault::divergent_barrier) {
      if (warp == 0) __syncthreads();
    }
    if constexpr (F == fault::left_before_barrier) {
      if (t == 77) return;
    }
    if constexpr (F != fault::no_barrier_before_reading) __syncthreads();
    float all = 0;
    for (int w = 0; w < sum_warps; ++w) all += s.partial[w];
    if constexpr (F != fault::no_barrier_after_reading) __syncthreads();
    for (int i = t; i < n; i += sum_threads) y[i] = x[i] / all;
  }
}

// ---- a product: y[t, o] = sum_k w[o, k] x[t, k], e4m3, o in tiles of 64, t of 8, k of 128 through a ring of two stages

inline constexpr int tile_o = 64, tile_t = 8, tile_k = 128, stages = 2, product_threads = 128;
inline constexpr int pitch = tile_k + 16;  // rows begin in different banks
struct product_shared {
  alignas(16) unsigned char w[stages][tile_o][pitch], x[stages][tile_t][pitch];
};
template <fault F>
__global__ void product_e4m3(const unsigned char* w, const unsigned char* x, float* y, int o, int k) {
  auto& s = *gpu::shared_memory<product_shared>();
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32, g = lane / 4, i = lane % 4;
  const int first = static_cast<int>(blockIdx.x) * tile_o, tiles = k / tile_k;
  const auto fetch = [&](int tile) {
    const int stage = F == fault::overwritten_while_read ? 0 : tile % stages;
    constexpr int pieces = tile_k / 16;
    for (int c = t; c < (tile_o + tile_t) * pieces; c += product_threads) {
      const int r = c / pieces, at = c % pieces * 16, from = tile * tile_k + at;
      const int off = F == fault::misaligned_copy && c == 5 ? 4 : 0;
      if (r < tile_o)
        gpu::copy_async_16(&s.w[stage][r][at], w + (first + r) * k + from + off);
      else
        gpu::copy_async_16(&s.x[stage][r - tile_o][at], x + (r - tile_o) * k + from);
    }
    gpu::copy_async_commit();
  };
  float d[4] = {};
  fetch(0);
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = F == fault::overwritten_while_read ? 0 : tile % stages;
    if constexpr (F == fault::overwritten_while_read) {
      gpu::copy_async_wait<0>();
      __syncthreads();
    } else {
      if (tile + 1 < tiles) fetch(tile + 1);
      const bool last = tile + 1 == tiles;
      if constexpr (F == fault::wait_for_too_few)
        gpu::copy_async_wait<1>();
      else if constexpr (F != fault::no_wait_for_copies && F != fault::copies_left_behind)
        last ? gpu::copy_async_wait<0>() : gpu::copy_async_wait<1>();
      if constexpr (F != fault::no_barrier_after_wait) __syncthreads();
    }
    for (int kk = 0; kk < tile_k; kk += 32) {
      unsigned a[4], b[2];
      for (int r = 0; r < 4; ++r) {
        const int low = F == fault::swapped_fragments ? r / 2 : r % 2,
                  high = F == fault::swapped_fragments ? r % 2 : r / 2;
        a[r] =
            *reinterpret_cast<const unsigned*>(&s.w[stage][warp * 16 + g + 8 * low][kk + 4 * i + 16 * high]);
      }
      for (int r = 0; r < 2; ++r)
        b[r] = *reinterpret_cast<const unsigned*>(&s.x[stage][g][kk + 4 * i + 16 * r]);
      gpu::multiply_e4m3(d, a, b);
    }
    if constexpr (F == fault::overwritten_while_read) {
      if (tile + 1 < tiles) fetch(tile + 1);  // without the barrier that says that all have read
    } else {
      __syncthreads();
    }
  }
  if constexpr (F == fault::no_wait_for_copies || F == fault::wait_for_too_few) gpu::copy_async_wait<0>();
  for (int r = 0; r < 4; ++r) y[(2 * i + r % 2) * o + first + warp * 16 + g + 8 * (r / 2)] = d[r];
}

// ---- blocks that wait for each other: y = x / sum(x), each block sums its part, then all wait for all

template <fault F>
__global__ void divide_by_sum_of_blocks(const float* x, float* part, unsigned* arrived, float* y, int n) {
  const int t = static_cast<int>(threadIdx.x), each = n / static_cast<int>(gridDim.x);
  const int first = static_cast<int>(blockIdx.x) * each;
  if (t == 0) {
    float sum = 0;
    for (int i = 0; i < each; ++i) sum += x[first + i];
    part[blockIdx.x] = sum;
    if constexpr (F == fault::relaxed_flag)
      atomicAdd(arrived, 1u);
    else
      gpu::add_release(arrived, 1u);
    while (gpu::load_acquire(arrived) < gridDim.x) {
    }
  }
  __syncthreads();
  float all = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) all += part[b];
  for (int i = t; i < each; i += static_cast<int>(blockDim.x)) y[first + i] = x[first + i] / all;
}

// ---- running them

template <fault F>
bool sums_are_right() {
  constexpr int rows = 5, n = 300;  // not a multiple of the threads
  // Exactly as long as it is: the element past the end is the allocator's (AddressSanitizer) or a NaN.
  constexpr int behind = dsv4::host_machine::asan::on ? 0 : 1;
  std::vector<float> x(rows * n + behind, std::numeric_limits<float>::quiet_NaN()), y(rows * n);
  for (int i = 0; i < rows * n; ++i) x[static_cast<std::size_t>(i)] = static_cast<float>(1 + i * 7 % 64);
  gpu::launch({}, {1, sum_threads, sizeof(sum_shared)}, divide_by_sum<F>, x.data(), y.data(), rows, n);
  for (int row = 0; row < rows; ++row) {
    float all = 0;  // small integers: exact in any order
    for (int i = 0; i < n; ++i) all += x[static_cast<std::size_t>(row * n + i)];
    for (int i = row * n; i < (row + 1) * n; ++i)
      if (y[static_cast<std::size_t>(i)] != x[static_cast<std::size_t>(i)] / all) return false;
  }
  return true;
}

template <fault F>
bool product_is_right() {
  constexpr int o = 2 * tile_o, k = 3 * tile_k;
  struct alignas(16) sixteen {
    unsigned char code[16];
  };
  std::vector<sixteen> w(o * k / 16), x(tile_t * k / 16);
  std::vector<float> y(tile_t * o);
  const auto code = [](std::vector<sixteen>& v, int i) -> unsigned char& {
    return v[static_cast<std::size_t>(i / 16)].code[i % 16];
  };
  // Small whole numbers, so that float sums are exact: e4m3 of -4 .. 4.
  for (int i = 0; i < o * k; ++i) code(w, i) = dsv4::e4m3::encode((i * 5 + i / k) % 9 - 4).bits;
  for (int i = 0; i < tile_t * k; ++i) code(x, i) = dsv4::e4m3::encode((i * 7 + i / k) % 9 - 4).bits;
  gpu::launch({}, {o / tile_o, product_threads, sizeof(product_shared)}, product_e4m3<F>, w[0].code,
              x[0].code, y.data(), o, k);
  for (int t = 0; t < tile_t; ++t)
    for (int row = 0; row < o; ++row) {
      double sum = 0;
      for (int i = 0; i < k; ++i)
        sum += dsv4::e4m3::from_bits(code(w, row * k + i)).decode() *
               dsv4::e4m3::from_bits(code(x, t * k + i)).decode();
      if (y[static_cast<std::size_t>(t * o + row)] != static_cast<float>(sum)) return false;
    }
  return true;
}

template <fault F>
bool blocks_are_right() {
  constexpr int blocks = 4, n = 1024;
  std::vector<float> x(n), y(n), part(blocks, std::numeric_limits<float>::quiet_NaN());
  for (int i = 0; i < n; ++i) x[static_cast<std::size_t>(i)] = static_cast<float>(1 + i % 64);
  unsigned arrived = 0;
  gpu::launch({}, {blocks, 64, 0, F != fault::spin_without_cooperation}, divide_by_sum_of_blocks<F>, x.data(),
              part.data(), &arrived, y.data(), n);
  float all = 0;
  for (float v : x) all += v;
  for (int i = 0; i < n; ++i)
    if (y[static_cast<std::size_t>(i)] != x[static_cast<std::size_t>(i)] / all) return false;
  return true;
}

/// Is the result right?  @throws host_machine::fault
template <fault F>
bool is_right() {
  if constexpr (F == fault::none)
    return sums_are_right<F>() && product_is_right<F>() && blocks_are_right<F>();
  if constexpr (F < fault::no_wait_for_copies) return sums_are_right<F>();
  if constexpr (F < fault::spin_without_cooperation) return product_is_right<F>();
  return blocks_are_right<F>();
}

/// What the machine finds of fault F: its report, or "wrong values", or nothing; and under which schedule.
struct finding {
  std::string what, schedule;
};
template <fault F>
finding find(const std::vector<dsv4::host_machine::schedule>& schedules = dsv4::host_machine::adversaries()) {
  for (const auto& s : schedules) {
    dsv4::host_machine::the_machine().how = s;
    try {
      if (!is_right<F>()) return {"wrong values", text(s)};
    } catch (const dsv4::host_machine::fault& e) {
      return {e.what(), text(s)};
    }
  }
  return {};
}
/// The same for the fault of that number in `faults`.
template <std::size_t... I>
finding find_numbered(std::size_t number, std::index_sequence<I...>) {
  finding r;
  ((I == number ? (void)(r = find<faults[I].f>()) : (void)0), ...);
  return r;
}
inline finding find_numbered(std::size_t number) {
  return find_numbered(number, std::make_index_sequence<std::size(faults)>());
}

}  // namespace dsv4_test
