// SPDX-License-Identifier: MIT
#pragma once
/// Fast Hadamard rotation: the butterflies of op/hadamard.hpp over contiguous halves, rows in parallel.
#include "../../op/hadamard.hpp"
#include "../parallel.hpp"
#include "../row.hpp"

namespace dsv4::kernel {

template <accumulate M>
struct hadamard<exec::basic_cpu<M>> {
  using W = typename exec::basic_cpu<M>::wide;

  template <class A>
  static void run(exec::basic_cpu<M>&, view<A, 2> x) {
    const index_t d = x.extent(1);
    const W factor = W(1 / std::sqrt(double(d)));
    cpu::parallel_for(x.extent(0), cpu::rows_per_task(8 * d), [&](index_t from, index_t to) {
      workspace::scope here(cpu::local_scratch());
      auto y = cpu::local_scratch().template take<W>(d);
      for (index_t t = from; t < to; ++t) {
        cpu::widen_row(x[t].data(), d, y.data());
        for (index_t s = 1; s < d; s *= 2)
          for (index_t block = 0; block < d; block += 2 * s) {
            W *low = y.data() + block, *high = low + s;
            for (index_t i = 0; i < s; ++i) {
              const W a = low[i], b = high[i];
              low[i] = a + b;
              high[i] = a - b;
            }
          }
        for (index_t i = 0; i < d; ++i) y[i] *= factor;
        cpu::store_row(y.data(), d, x[t].data());
      }
    });
  }
};

}  // namespace dsv4::kernel
