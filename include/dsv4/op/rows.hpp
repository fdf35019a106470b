// SPDX-License-Identifier: MIT
#pragma once
/// Rows from one place to another inside the executor's memory: what a batch joins and what of it is picked.
#include <algorithm>
#include <span>

#include "../core/exec.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, parts, all [t, c]): the rows of every part, one after another.
template <execution E>
struct join_rows {
  static_assert(has_kernel<E>, "join_rows: no kernel for this executor");
};
/// run(e, from [t, c], which, to [r, c]): to[i] = from[which[i]].
template <execution E>
struct gather_rows {
  static_assert(has_kernel<E>, "gather_rows: no kernel for this executor");
};

template <host_execution E>
struct join_rows<E> {
  template <class T>
  static void run(E&, std::span<const view<const T, 2>> parts, view<T, 2> all) {
    T* to = all.data();
    for (const view<const T, 2>& p : parts) to = std::copy_n(p.data(), p.size(), to);
  }
};
template <host_execution E>
struct gather_rows<E> {
  template <class T>
  static void run(E&, view<const T, 2> from, std::span<const index_t> which, view<T, 2> to) {
    for (std::size_t i = 0; i < which.size(); ++i)
      std::copy_n(from[which[i]].data(), from.extent(1), to[static_cast<index_t>(i)].data());
  }
};
}  // namespace kernel

}  // namespace dsv4
