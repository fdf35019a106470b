// SPDX-License-Identifier: MIT
#pragma once
/// The products of training on the CPU: Eigen on tiles, tiles on threads.
/// axes     t token · k input channel · o output channel
/// oracle   train/product.hpp
///
/// A tile is a fixed part of the result, summed by one thread over the whole contracted axis: neither the threads nor
/// who runs a tile change a bit.  The tiles of both products of the way back are shared out together.
#include "../../adapt/eigen.hpp"
#include "../../train/product.hpp"
#include "../parallel.hpp"

namespace dsv4 {

namespace cpu {
/// Tokens in a tile of y or dx: with so many, Eigen's packing of the weight costs a few percent of the product.
inline constexpr index_t token_tile = 256;
/// Rows in a tile of dw.  A matrix of few rows is cut by columns as well, so that there are tiles for all threads.
inline constexpr index_t weight_tile = 128;
}  // namespace cpu

namespace kernel {
template <accumulate A>
struct rows<exec::basic_cpu<A>> {
  template <class F>
  static void run(exec::basic_cpu<A>&, index_t n, index_t grain, F&& f) {
    cpu::parallel_for(n, grain, f);
  }
};

template <accumulate A>
struct exponential<exec::basic_cpu<A>> {
  template <class T>
  static void run(exec::basic_cpu<A>&, T* x, index_t n) {
    // The last numbers go through a vector too: Eigen's exp of a vector and std::exp may differ by an ulp, and what
    // becomes of a number must not depend on its place.
    constexpr index_t wide = 16;
    using vector = Eigen::Array<T, wide, 1>;
    index_t i = 0;
    for (; i + wide <= n; i += wide) {
      Eigen::Map<vector> part(x + i);
      part = part.exp();
    }
    vector rest = vector::Zero();
    std::copy(x + i, x + n, rest.data());
    rest = rest.exp().eval();
    std::copy_n(rest.data(), n - i, x + i);
  }
};

template <accumulate A>
struct products<exec::basic_cpu<A>> {
  using E = exec::basic_cpu<A>;
  // einsum: t k, o k -> t o
  template <class T>
  static void forward(E&, view<const T, 2> x, view<const T, 2> w, view<T, 2> y) {
    constexpr index_t side = cpu::token_tile;
    const index_t tokens = y.extent(0);
    cpu::parallel_tasks(cpu::ceil_div(tokens, side), [&](index_t i) {
      const index_t begin = i * side, end = std::min(tokens, begin + side);
      adapt::as_eigen(y.rows(begin, end)).noalias() =
          adapt::as_eigen(x.rows(begin, end)) * adapt::as_eigen(w).transpose();
    });
  }

  template <class T>
  static void backward(E&, view<const T, 2> dy, view<const T, 2> x, view<const T, 2> w, view<T, 2> dx,
                       view<T, 2> dw) {
    // einsum: t o, t k -> o k
    const index_t rows = dw.extent(0), cols = dw.extent(1), high = cpu::weight_tile,
                  wide = rows <= high ? high : cols;
    const index_t across = cpu::ceil_div(cols, wide), weights = cpu::ceil_div(rows, high) * across;
    const auto weight = [&](index_t i) {
      const index_t o = i / across * high, k = i % across * wide, height = std::min(high, rows - o),
                    width = std::min(wide, cols - k);
      adapt::as_eigen(dw).block(o, k, height, width).noalias() +=
          adapt::as_eigen(dy).middleCols(o, height).transpose() * adapt::as_eigen(x).middleCols(k, width);
    };
    // einsum: t o, o k -> t k
    constexpr index_t side = cpu::token_tile;
    const index_t tokens = dx.data() ? dx.extent(0) : 0;
    const auto input = [&](index_t i) {
      const index_t begin = i * side, end = std::min(tokens, begin + side);
      adapt::as_eigen(dx.rows(begin, end)).noalias() +=
          adapt::as_eigen(dy.rows(begin, end)) * adapt::as_eigen(w);
    };
    // Tiles of dw take longest, so they are started first.
    cpu::parallel_tasks(weights + cpu::ceil_div(tokens, side),
                        [&](index_t i) { i < weights ? weight(i) : input(i - weights); });
  }
};
}  // namespace kernel

}  // namespace dsv4
