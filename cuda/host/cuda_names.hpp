// SPDX-License-Identifier: MIT
#pragma once
/// The words of CUDA C++ that kernels use, with their meaning on the host machine.  Names and signatures are CUDA's; the
/// last argument, which no caller gives, is the place of the call.
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>

#include "collective.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (::dsv4::host_machine::self().id)
#define blockIdx (::dsv4::host_machine::self().in->id)
#define blockDim (::dsv4::host_machine::the_machine().size)
#define gridDim (::dsv4::host_machine::the_machine().grid)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// ---- meeting
inline void __syncthreads(dsv4::host_machine::where at = dsv4::host_machine::where::current()) {
  dsv4::host_machine::barrier(at);
}
inline void __syncwarp(unsigned mask = ~0u,
                       dsv4::host_machine::where at = dsv4::host_machine::where::current()) {
  dsv4::host_machine::sync_warp(mask, at);
}

// ---- registers of other lanes; `width` cuts the warp into parts that do not see one another
namespace dsv4::host_machine {
/// Lane `at` of the part that this lane is in, or this lane itself where the part has no such lane.
inline unsigned lane_of_part(int at, int width) {
  const int lane = static_cast<int>(lane_of(self())), first = lane / width * width;
  return static_cast<unsigned>(first <= at && at < first + width ? at : lane);
}
inline int lane_here() { return static_cast<int>(lane_of(self())); }
}  // namespace dsv4::host_machine

template <class T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32,
              dsv4::host_machine::where at = dsv4::host_machine::where::current()) {
  const int first = dsv4::host_machine::lane_here() / width * width;
  return dsv4::host_machine::shuffle("__shfl_sync", at, mask, v, static_cast<unsigned>(first + from % width));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32,
                  dsv4::host_machine::where at = dsv4::host_machine::where::current()) {
  return dsv4::host_machine::shuffle(
      "__shfl_xor_sync", at, mask, v,
      dsv4::host_machine::lane_of_part(dsv4::host_machine::lane_here() ^ bits, width));
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32,
                   dsv4::host_machine::where at = dsv4::host_machine::where::current()) {
  return dsv4::host_machine::shuffle(
      "__shfl_down_sync", at, mask, v,
      dsv4::host_machine::lane_of_part(dsv4::host_machine::lane_here() + static_cast<int>(by), width));
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32,
                 dsv4::host_machine::where at = dsv4::host_machine::where::current()) {
  return dsv4::host_machine::shuffle(
      "__shfl_up_sync", at, mask, v,
      dsv4::host_machine::lane_of_part(dsv4::host_machine::lane_here() - static_cast<int>(by), width));
}

// ---- votes
inline unsigned __ballot_sync(unsigned mask, bool bit,
                              dsv4::host_machine::where at = dsv4::host_machine::where::current()) {
  return dsv4::host_machine::ballot("__ballot_sync", at, mask, bit);
}
inline int __any_sync(unsigned mask, bool bit,
                      dsv4::host_machine::where at = dsv4::host_machine::where::current()) {
  return dsv4::host_machine::ballot("__any_sync", at, mask, bit) != 0;
}
inline int __all_sync(unsigned mask, bool bit,
                      dsv4::host_machine::where at = dsv4::host_machine::where::current()) {
  return dsv4::host_machine::ballot("__all_sync", at, mask, bit) == mask;
}

// ---- atomics: relaxed, as in CUDA; what others may spin on is progress
template <class T>
T atomicAdd(T* p, T v) {
  dsv4::host_machine::the_machine().progress();
  return std::atomic_ref<T>(*p).fetch_add(v, std::memory_order_relaxed);
}
template <class T>
T atomicMax(T* p, T v) {
  dsv4::host_machine::the_machine().progress();
  std::atomic_ref<T> a(*p);
  T old = a.load(std::memory_order_relaxed);
  while (old < v && !a.compare_exchange_weak(old, v, std::memory_order_relaxed)) {
  }
  return old;
}
template <class T>
T atomicCAS(T* p, T expected, T desired) {
  dsv4::host_machine::the_machine().progress();
  std::atomic_ref<T>(*p).compare_exchange_strong(expected, desired, std::memory_order_relaxed);
  return expected;
}

// ---- bits
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x ? std::countr_zero(static_cast<unsigned>(x)) + 1 : 0; }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
/// Byte i of the result is byte (selector nibble i, low three bits) of the eight bytes b:a.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t eight = std::uint64_t{b} << 32 | a;
  unsigned r = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> 4 * i & 15,
                   byte = static_cast<unsigned>(eight >> (nibble & 7) * 8) & 255;
    // The high bit of a nibble asks for the byte's sign in all its bits.
    r |= (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
  }
  return r;
}
