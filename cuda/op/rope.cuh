// SPDX-License-Identifier: MIT
#pragma once
/// op/rope.hpp on a GPU: a thread for each rotary pair.
#include <dsv4/op/rope.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
template <class A>
__global__ void rope(view<A, 3> x /*[t,h,d]*/, view<const float, 2> cos, view<const float, 2> sin /*[t,i]*/,
                     rotation direction) {
  const index_t heads = x.extent(1), pairs = cos.extent(1);
  if (item() >= x.extent(0) * heads * pairs) return;
  const index_t t = item() / (heads * pairs), h = item() / pairs % heads, i = item() % pairs;
  const index_t at = x.extent(2) - 2 * (pairs - i);
  A &even = x(t, h, at), &odd = x(t, h, at + 1);
  const double c = cos(t, i), s = direction == rotation::forward ? sin(t, i) : -sin(t, i);
  const auto turned = rotate_pair(widen<double>(even), widen<double>(odd), c, s);
  even = store<A>(turned.even);
  odd = store<A>(turned.odd);
}

/// Angles of rows at positions first, first + step, ...
DSV4_KERNEL void set_angles(index_t first, index_t step, view<const float, 1> inv_freq /*[i]*/,
                            view<float, 2> cos, view<float, 2> sin /*[t,i]*/) {
  if (item() >= cos.size()) return;
  const index_t t = item() / cos.extent(1), i = item() % cos.extent(1);
  const double angle = rotary_angle(first + t * step, inv_freq[i]);
  cos(t, i) = static_cast<float>(std::cos(angle));
  sin(t, i) = static_cast<float>(std::sin(angle));
}
}  // namespace gpu

namespace kernel {
template <>
struct rope<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<A, 3, mem::device> x, const basic_rotary_angles<mem::device>& angles,
                  rotation direction) {
    const view<const float, 2> cos = gpu::argument(angles.cos), sin = gpu::argument(angles.sin);
    gpu::launch(e.stream, gpu::one_thread_each(x.extent(0) * x.extent(1) * cos.extent(1)), gpu::rope<A>,
                gpu::argument(x), cos, sin, direction);
  }
};
template <>
struct set_angles<exec::cuda> {
  static void run(exec::cuda& e, std::span<const position_run> runs,
                  view<const float, 1, mem::device> inv_freq,
                  const basic_rotary_angles<mem::device>& angles) {
    for (const position_run& r : runs) {
      const view<float, 2> cos = gpu::argument(angles.cos.rows(r.begin, r.end));
      gpu::launch(e.stream, gpu::one_thread_each(cos.size()), gpu::set_angles, r.first, r.step,
                  gpu::argument(inv_freq), cos, gpu::argument(angles.sin.rows(r.begin, r.end)));
    }
  }
};
}  // namespace kernel

}  // namespace dsv4
