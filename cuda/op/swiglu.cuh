// SPDX-License-Identifier: MIT
#pragma once
/// op/swiglu.hpp on a GPU: a thread for each value.
#include <dsv4/op/swiglu.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
template <class A>
__global__ void swiglu(view<const A, 2> a /*[t,i]*/, view<const A, 2> u /*[t,i]*/,
                       view<const double, 1> weight /*[t]*/, double limit, view<A, 2> z /*[t,i]*/) {
  if (item() >= z.size()) return;
  const index_t t = item() / z.extent(1), i = item() % z.extent(1);
  const double w = weight.extent(0) ? weight[t] : 1.0;
  z(t, i) = store<A>(swiglu_value(widen<double>(a(t, i)), widen<double>(u(t, i)), limit, w));
}
}  // namespace gpu

namespace kernel {
template <>
struct swiglu<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 2, mem::device> a, view<const A, 2, mem::device> u,
                  view<const double, 1, mem::device> weight, double limit, view<A, 2, mem::device> z) {
    gpu::launch(e.stream, gpu::one_thread_each(z.size()), gpu::swiglu<A>, gpu::argument(a), gpu::argument(u),
                gpu::argument(weight), limit, gpu::argument(z));
  }
};
}  // namespace kernel

}  // namespace dsv4
