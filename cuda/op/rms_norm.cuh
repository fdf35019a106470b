// SPDX-License-Identifier: MIT
#pragma once
/// op/rms_norm.hpp on a GPU: a block for each row (of each head), its squares summed over the threads.
#include <dsv4/op/rms_norm.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"
#include "../reduce.hpp"

namespace dsv4 {

namespace gpu {
template <class A>
__global__ void __launch_bounds__(threads_of_sum)
    rms_norm(view<const A, 2> x /*[t,d]*/, view<const float, 1> w /*[d]*/, double eps,
             view<A, 2> y /*[t,d]*/) {
  auto& s = *shared_memory<block_sum_shared>();
  const index_t t = blockIdx.x, d_end = x.extent(1);
  double squares = 0;
  for (index_t d = threadIdx.x; d < d_end; d += threads_of_sum)
    squares += widen<double>(x(t, d)) * widen<double>(x(t, d));
  const double r = inverse_rms(block_sum(s, squares), double(d_end), eps);
  for (index_t d = threadIdx.x; d < d_end; d += threads_of_sum)
    y(t, d) = store<A>(widen<double>(x(t, d)) * r * double(w[d]));
}

// Every step is stored: the squares, their mean, and both roots.
template <class A>
__global__ void __launch_bounds__(threads_of_sum) head_norm(view<A, 2> q /*[th,d]*/, double eps) {
  auto& s = *shared_memory<block_sum_shared>();
  const index_t row = blockIdx.x, d_end = q.extent(1);
  double squares = 0;
  for (index_t d = threadIdx.x; d < d_end; d += threads_of_sum) {
    const double v = widen<double>(q(row, d));
    squares += rounded<A>(v * v);
  }
  const double mean = rounded<A>(block_sum(s, squares) / double(d_end));
  const double r = rounded<A>(1 / std::sqrt(rounded<A>(mean + eps)));
  for (index_t d = threadIdx.x; d < d_end; d += threads_of_sum)
    q(row, d) = store<A>(widen<double>(q(row, d)) * r);
}
}  // namespace gpu

namespace kernel {
template <>
struct rms_norm<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 2, mem::device> x, view<const float, 1, mem::device> w,
                  double eps, view<A, 2, mem::device> y) {
    gpu::launch(e.stream, gpu::one_block_each(x.extent(0), sizeof(gpu::block_sum_shared)), gpu::rms_norm<A>,
                gpu::argument(x), gpu::argument(w), eps, gpu::argument(y));
  }
};

template <>
struct head_norm<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<A, 3, mem::device> q, double eps) {
    const index_t rows = q.extent(0) * q.extent(1);
    gpu::launch(e.stream, gpu::one_block_each(rows, sizeof(gpu::block_sum_shared)), gpu::head_norm<A>,
                gpu::argument(q.reshape(rows, q.extent(2))), eps);
  }
};
}  // namespace kernel

}  // namespace dsv4
