// SPDX-License-Identifier: MIT
#pragma once
/// model/mtp.hpp on a GPU: the projected embedding joins every stream.
#include <dsv4/model/mtp.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
template <class A>
__global__ void add_to_streams(view<const A, 2> a /*[t,d]*/, view<A, 3> b /*[t,n,d]*/) {
  if (item() >= a.size()) return;
  const index_t t = item() / a.extent(1), d = item() % a.extent(1);
  for (index_t j = 0; j < b.extent(1); ++j)
    b(t, j, d) = store<A>(widen<double>(a(t, d)) + widen<double>(b(t, j, d)));
}
}  // namespace gpu

namespace kernel {
template <>
struct add_to_streams<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 2, mem::device> a, view<A, 3, mem::device> b) {
    gpu::launch(e.stream, gpu::one_thread_each(a.size()), gpu::add_to_streams<A>, gpu::argument(a),
                gpu::argument(b));
  }
};
}  // namespace kernel

}  // namespace dsv4
