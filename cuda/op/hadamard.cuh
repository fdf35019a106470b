// SPDX-License-Identifier: MIT
#pragma once
/// op/hadamard.hpp on a GPU: a block for each row, the row in shared memory, a barrier between the steps.
#include <dsv4/op/hadamard.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"
#include "../reduce.hpp"

namespace dsv4 {

namespace gpu {
template <class A>
__global__ void __launch_bounds__(threads_of_sum) hadamard(view<A, 2> x /*[t,d]*/) {
  double* const y = shared_memory<double>();  // [d]
  const index_t t = blockIdx.x, d = x.extent(1);
  for (index_t i = threadIdx.x; i < d; i += threads_of_sum) y[i] = widen<double>(x(t, i));
  __syncthreads();
  // H of size 2s is [[H, H], [H, -H]]: sums and differences at distance s, d/2 pairs of them.
  for (index_t s = 1; s < d; s *= 2) {
    for (index_t pair = threadIdx.x; pair < d / 2; pair += threads_of_sum) {
      const index_t i = pair / s * 2 * s + pair % s;
      const double a = y[i], b = y[i + s];
      y[i] = a + b;
      y[i + s] = a - b;
    }
    __syncthreads();
  }
  for (index_t i = threadIdx.x; i < d; i += threads_of_sum)
    x(t, i) = store<A>(y[i] * (1 / std::sqrt(double(d))));
}
}  // namespace gpu

namespace kernel {
template <>
struct hadamard<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<A, 2, mem::device> x) {
    const auto bytes = static_cast<std::size_t>(x.extent(1)) * sizeof(double);
    gpu::launch(e.stream, gpu::one_block_each(x.extent(0), bytes), gpu::hadamard<A>, gpu::argument(x));
  }
};
}  // namespace kernel

}  // namespace dsv4
