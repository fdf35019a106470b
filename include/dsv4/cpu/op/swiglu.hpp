// SPDX-License-Identifier: MIT
#pragma once
/// Fast SwiGLU: rows in parallel.
#include "../../op/swiglu.hpp"
#include "../parallel.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct swiglu<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;

  template <class A>
  static void row(const A* a, const A* u, index_t n, W weight, W limit, A* z) {
    for (index_t i = 0; i < n; ++i)
      z[i] = store<A>(swiglu_value(widen<W>(a[i]), widen<W>(u[i]), limit, weight));
  }

  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 2> a, view<const A, 2> u, view<const W, 1> weight,
                  double limit, view<A, 2> z) {
    const index_t n = a.extent(1);
    // Rows may be few and long: parts of a row are tasks of their own.
    constexpr index_t part = 512;
    const index_t parts = (n + part - 1) / part;
    cpu::parallel_for(a.extent(0) * parts, cpu::rows_per_task(16 * part), [&](index_t from, index_t to) {
      for (index_t i = from; i < to; ++i) {
        const index_t t = i / parts, begin = i % parts * part, count = std::min(part, n - begin);
        row(a[t].data() + begin, u[t].data() + begin, count, weight.extent(0) ? weight[t] : W(1), W(limit),
            z[t].data() + begin);
      }
    });
  }
};

}  // namespace dsv4::kernel
