// SPDX-License-Identifier: MIT
#pragma once
/// Fast rotation: heads in parallel.  One fused multiply-add per output is not used: both products are
/// formed and rounded alike in every executor that shares W.
#include "../../op/rope.hpp"
#include "../parallel.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct rope<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;

  template <class A>
  static void run(exec::basic_cpu<M>&, view<A, 3> x, const rotary_angles& angles, rotation direction) {
    const index_t heads = x.extent(1), d = x.extent(2), pairs = angles.cos.extent(1);
    const W sign = direction == rotation::forward ? W(1) : W(-1);
    cpu::parallel_for(x.extent(0) * heads, cpu::rows_per_task(2 * pairs), [&](index_t from, index_t to) {
      for (index_t row = from; row < to; ++row) {
        const index_t t = row / heads;
        const float *cos = angles.cos[t].data(), *sin = angles.sin[t].data();
        A* v = x.data() + row * d + d - 2 * pairs;
        for (index_t i = 0; i < pairs; ++i) {
          const W c = W(cos[i]), s = sign * W(sin[i]);
          const auto turned = rotate_pair(widen<W>(v[2 * i]), widen<W>(v[2 * i + 1]), c, s);
          v[2 * i] = store<A>(turned.even);
          v[2 * i + 1] = store<A>(turned.odd);
        }
      }
    });
  }
};

}  // namespace dsv4::kernel
