// SPDX-License-Identifier: MIT
#pragma once
/// Rows that are moved inside device memory: joined, picked, remembered in rings; op/rows.hpp and attn/kv_cache.hpp.
#include <dsv4/attn/kv_cache.hpp>
#include <dsv4/op/rows.hpp>

#include "../arguments.hpp"
#include "../exec.hpp"

namespace dsv4 {

namespace gpu {
// Row i goes to row (start + i) mod capacity of the ring; a thread for each element.
template <class T>
__global__ void append_rows(view<const T, 2> rows /*[t,d]*/, index_t start,
                            view<T, 2> ring /*[capacity,d]*/) {
  if (item() >= rows.size()) return;
  const index_t t = item() / rows.extent(1), d = item() % rows.extent(1);
  ring((start + t) % ring.extent(0), d) = rows(t, d);
}
}  // namespace gpu

namespace kernel {
template <>
struct join_rows<exec::cuda> {
  template <class T>
  static void run(exec::cuda& e, std::span<const view<const T, 2, mem::device>> parts,
                  view<T, 2, mem::device> all) {
    index_t at = 0;
    for (const auto& p : parts) {
      dsv4::copy(e, p, all.rows(at, at + p.extent(0)));
      at += p.extent(0);
    }
  }
};
template <>
struct gather_rows<exec::cuda> {
  template <class T>
  static void run(exec::cuda& e, view<const T, 2, mem::device> from, std::span<const index_t> which,
                  view<T, 2, mem::device> to) {
    for (std::size_t i = 0; i < which.size(); ++i) {
      const auto row = static_cast<index_t>(i);
      dsv4::copy(e, from.rows(which[i], which[i] + 1), to.rows(row, row + 1));
    }
  }
};
/// A launch for each sequence; only the last `capacity` rows can stay, and they go to different places.
template <>
struct append_rows<exec::cuda> {
  template <class T>
  static void run(exec::cuda& e, view<const T, 2, mem::device> rows,
                  std::span<const ring_append<T, mem::device>> appends) {
    for (const ring_append<T, mem::device>& a : appends) {
      const index_t first = std::max(a.begin, a.end - a.ring.extent(0));
      const auto kept = rows.rows(first, std::max(first, a.end));
      gpu::launch(e.stream, gpu::one_thread_each(kept.size()), gpu::append_rows<T>, gpu::argument(kept),
                  a.start + first - a.begin, gpu::argument(a.ring));
    }
  }
};
}  // namespace kernel

}  // namespace dsv4
