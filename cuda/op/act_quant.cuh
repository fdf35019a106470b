// SPDX-License-Identifier: MIT
#pragma once
/// op/act_quant.hpp on a GPU: a thread for each block of a row that shares a scale.
#include <dsv4/op/act_quant.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
template <class A>
__global__ void act_quant(view<const A, 2> x /*[t,k]*/, view<e4m3, 2> code /*[t,k]*/,
                          view<float, 2> scale /*[t,k/128]*/) {
  if (item() >= scale.size()) return;
  const index_t t = item() / scale.extent(1), b = item() % scale.extent(1);
  const index_t from = b * fp8_tile, to = smaller(from + fp8_tile, x.extent(1));
  const double s = block_scale(&x(t, from), to - from, e4m3_max, fp8_amax_floor);
  scale(t, b) = static_cast<float>(s);
  for (index_t k = from; k < to; ++k) code(t, k) = scaled_code<e4m3>(widen<double>(x(t, k)), s, e4m3_max);
}

/// The first `channels` of every row stored as Code in blocks, and read back.
template <class Code, class A>
__global__ void quantise_in_place(view<A, 2> x /*[t,k]*/, index_t channels, index_t block, double largest,
                                  double floor) {
  const index_t blocks = (channels + block - 1) / block;
  if (item() >= x.extent(0) * blocks) return;
  const index_t t = item() / blocks, from = item() % blocks * block, to = smaller(from + block, channels);
  const double s = block_scale(&x(t, from), to - from, largest, floor);
  for (index_t k = from; k < to; ++k)
    x(t, k) = store<A>(scaled_code<Code>(widen<double>(x(t, k)), s, largest).decode() * s);
}

template <class Code, class A>
void launch_quantise_in_place(exec::cuda& e, view<A, 2, mem::device> x, index_t channels, index_t block,
                              double largest, double floor) {
  const index_t blocks = (channels + block - 1) / block;
  launch(e.stream, one_thread_each(x.extent(0) * blocks), quantise_in_place<Code, A>, argument(x), channels,
         block, largest, floor);
}
}  // namespace gpu

namespace kernel {
template <>
struct act_quant<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 2, mem::device> x, view<e4m3, 2, mem::device> code,
                  view<float, 2, mem::device> scale) {
    gpu::launch(e.stream, gpu::one_thread_each(scale.size()), gpu::act_quant<A>, gpu::argument(x),
                gpu::argument(code), gpu::argument(scale));
  }
};
template <>
struct act_quant_in_place<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<A, 2, mem::device> x, index_t channels, index_t block) {
    gpu::launch_quantise_in_place<e4m3>(e, x, channels, block, e4m3_max, fp8_amax_floor);
  }
};
template <>
struct fp4_act_quant<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<A, 2, mem::device> x) {
    gpu::launch_quantise_in_place<e2m1>(e, x, x.extent(1), fp4_tile_cols, e2m1_max, fp4_amax_floor);
  }
};
}  // namespace kernel

}  // namespace dsv4
