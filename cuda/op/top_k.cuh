// SPDX-License-Identifier: MIT
#pragma once
/// op/top_k.hpp on a GPU: the rank of a candidate is the number of candidates before it, and the order is total, so every
/// candidate below rank k knows its place.  n^2 comparisons for a row of n: short rows, or patience.
#include <dsv4/op/top_k.hpp>

#include "../device.hpp"

namespace dsv4::gpu {

/// The threads of a block write the k first of `scores` to `chosen`; min(k, n) of them.
template <class T>
DSV4_DEVICE void choose_top_k(const T* scores /*[n]*/, index_t n, std::int32_t* chosen /*[k]*/, index_t k) {
  for (index_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double own = to_double(scores[i]);
    index_t rank = 0;
    for (index_t j = 0; j < n && rank < k; ++j) {
      const double other = to_double(scores[j]);
      if (other != own ? other > own : j < i) ++rank;  // falling value, ties to the lower index
    }
    if (rank < k) chosen[rank] = static_cast<std::int32_t>(i);
  }
}

}  // namespace dsv4::gpu
