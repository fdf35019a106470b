// SPDX-License-Identifier: MIT
#pragma once
/// op/embedding.hpp on a GPU: a thread for each channel of a token, which writes all its streams.
#include <dsv4/op/embedding.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
template <class A>
__global__ void embed(view<const std::int32_t, 1> ids /*[t]*/, weight_matrix table /*[vocab,d]*/,
                      view<A, 2> y /*[t,d]*/) {
  if (item() >= y.size()) return;
  const index_t t = item() / y.extent(1), d = item() % y.extent(1);
  y(t, d) = store<A>(table.at(ids[t], d));
}
template <class A>
__global__ void copy_to_streams(view<const A, 2> row /*[t,d]*/, view<A, 3> h /*[t,n,d]*/) {
  if (item() >= row.size()) return;
  const index_t t = item() / row.extent(1), d = item() % row.extent(1);
  for (index_t j = 0; j < h.extent(1); ++j) h(t, j, d) = row(t, d);
}
}  // namespace gpu

namespace kernel {
template <>
struct embed<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const std::int32_t, 1, mem::device> ids,
                  const basic_weight_matrix<mem::device>& table, view<A, 2, mem::device> y) {
    gpu::launch(e.stream, gpu::one_thread_each(y.size()), gpu::embed<A>, gpu::argument(ids),
                gpu::argument(table), gpu::argument(y));
  }
};
template <>
struct copy_to_streams<exec::cuda> {
  template <class A>
  static void run(exec::cuda& e, view<const A, 2, mem::device> row, view<A, 3, mem::device> h) {
    gpu::launch(e.stream, gpu::one_thread_each(row.size()), gpu::copy_to_streams<A>, gpu::argument(row),
                gpu::argument(h));
  }
};
}  // namespace kernel

}  // namespace dsv4
