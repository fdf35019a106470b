// SPDX-License-Identifier: MIT
#pragma once
/// The products of training on the CPU: Eigen on tiles, tiles on threads.
/// @paper{none, the chain rule of a linear layer}
/// axes     t token · k input channel · o output channel
/// oracle   train/product.hpp
/// deviates none
///
/// A tile is a fixed number of rows of the result, summed by one thread over the whole contracted axis: neither the
/// threads nor who runs a tile change a bit.
#include "../../adapt/eigen.hpp"
#include "../../train/product.hpp"
#include "../parallel.hpp"

namespace dsv4 {

namespace cpu {
/// Rows of a result that one task computes: enough for Eigen's packing of the other factor to cost a few percent.
inline constexpr index product_tile = 128;

/// f(begin, end) for fixed tiles of [0, n).
template <class F>
void product_tiles(index n, F f) {
  parallel_tasks((n + product_tile - 1) / product_tile, [&](index i) { f(i * product_tile, std::min(n, (i + 1) * product_tile)); });
}
}  // namespace cpu

namespace kernel {
template <accumulate A>
struct rows<exec::basic_cpu<A>> {
  template <class F>
  static void run(exec::basic_cpu<A>&, index n, index grain, F&& f) {
    cpu::parallel_for(n, grain, f);
  }
};

template <accumulate A>
struct products<exec::basic_cpu<A>> {
  using E = exec::basic_cpu<A>;
  // einsum: t k, o k -> t o
  template <class T>
  static void forward(E&, view<const T, 2> x, view<const T, 2> w, view<T, 2> y) {
    cpu::product_tiles(y.extent(0), [&](index begin, index end) {
      adapt::as_eigen(y.rows(begin, end)).noalias() = adapt::as_eigen(x.rows(begin, end)) * adapt::as_eigen(w).transpose();
    });
  }
  // einsum: t o, o k -> t k
  template <class T>
  static void input(E&, view<const T, 2> dy, view<const T, 2> w, view<T, 2> dx) {
    cpu::product_tiles(dx.extent(0), [&](index begin, index end) {
      adapt::as_eigen(dx.rows(begin, end)).noalias() += adapt::as_eigen(dy.rows(begin, end)) * adapt::as_eigen(w);
    });
  }
  // einsum: t o, t k -> o k
  template <class T>
  static void weight(E&, view<const T, 2> dy, view<const T, 2> x, view<T, 2> dw) {
    // Few rows: the columns are cut as well, so that there is something to share out.  The cuts follow from the shape alone.
    const index rows = dw.extent(0), cols = dw.extent(1), width = rows <= cpu::product_tile ? cpu::product_tile : cols;
    const index across = (cols + width - 1) / width;
    cpu::parallel_tasks((rows + cpu::product_tile - 1) / cpu::product_tile * across, [&](index i) {
      const index o = i / across * cpu::product_tile, k = i % across * width;
      const index height = std::min(cpu::product_tile, rows - o), n = std::min(width, cols - k);
      adapt::as_eigen(dw).block(o, k, height, n).noalias() +=
          adapt::as_eigen(dy).middleCols(o, height).transpose() * adapt::as_eigen(x).middleCols(k, n);
    });
  }
};
}  // namespace kernel

}  // namespace dsv4
