// SPDX-License-Identifier: MIT
#pragma once
/// Sums over a block, in one fixed order: the same bits in every run, for any grid.
#include "device.hpp"

namespace dsv4::gpu {

inline constexpr unsigned threads_of_sum = 128;

struct block_sum_shared {
  double partial[threads_of_sum / warp_size];  // of each warp
};

/// The sum of one number of every thread of a block of threads_of_sum; every thread gets it.
DSV4_DEVICE double block_sum(block_sum_shared& s, double v) {
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  for (int o = warp_size / 2; o; o /= 2) v += __shfl_xor_sync(all_lanes, v, o);
  if (lane == 0) s.partial[warp] = v;
  __syncthreads();  // all partial sums are there
  double sum = 0;
  for (const double p : s.partial) sum += p;
  __syncthreads();  // all have read them: s may be used again
  return sum;
}

/// A block for each of n rows.
inline shape one_block_each(index_t n, std::size_t shared = 0) {
  return {static_cast<unsigned>(n), threads_of_sum, shared};
}

}  // namespace dsv4::gpu
