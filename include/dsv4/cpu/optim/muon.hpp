// SPDX-License-Identifier: MIT
#pragma once
/// Fast orthogonalisation: Eigen products of tiles; of a symmetric product those on and below the diagonal.
/// @paper{DSV4, section 2.4, Eq. (28)}
/// axes     s, l short and long side of the matrix
/// oracle   kernel::newton_schulz<exec::ref>
/// deviates a I + b A + c A^2 with A = X X^T is formed once and multiplied by X: sums in another order.
///          accumulate::fast iterates floats as floats: rounding grows by newton_schulz_growth along
///          singular directions that the matrix hardly has
///
/// One matrix is one thread's work, so bits do not depend on threads: callers run matrices in parallel,
/// each with a workspace of its own (cpu::local_scratch()).
#include <algorithm>
#include <type_traits>
#include <utility>

#include <Eigen/Core>

#include "../../optim/newton_schulz.hpp"

namespace dsv4::kernel {

template <accumulate A>
struct newton_schulz<exec::basic_cpu<A>> {
  template <class T>
  using number = std::conditional_t<A == accumulate::exact, double, T>;

  template <class W>
  static void run(exec::basic_cpu<A>&, workspace& scratch, view<W, 2> x /*[s,l]*/) {
    const index_t s = x.extent(0), l = x.extent(1);
    const workspace::scope here(scratch);
    auto gram = scratch.take<W>(s, s);
    auto polynomial = scratch.take<W>(s, s);
    auto next = scratch.take<W>(s, l);
    auto m = x;
    for (const auto& p : hybrid_newton_schulz)
      for (int step = 0; step < p.steps; ++step) {
        // A = X X^T
        lower_tiles(s, [&](index_t i, index_t rows, index_t j, index_t columns) {
          auto tile = block(gram, i, rows, j, columns);
          tile.setZero();
          each_depth<W>(l, [&](index_t k, index_t depth) {
            tile.noalias() += block(m, i, rows, k, depth) * block(m, j, columns, k, depth).transpose();
          });
        });
        mirror(gram);
        // a I + b A + c A^2
        lower_tiles(s, [&](index_t i, index_t rows, index_t j, index_t columns) {
          auto tile = block(polynomial, i, rows, j, columns);
          tile = W(p.b) * block(gram, i, rows, j, columns);
          if (i - j < columns)
            block(polynomial, i, rows, i, rows).diagonal().array() += W(p.a);  // the tile with the diagonal
          each_depth<W>(s, [&](index_t k, index_t depth) {
            tile.noalias() += W(p.c) * block(gram, i, rows, k, depth) * block(gram, k, depth, j, columns);
          });
        });
        mirror(polynomial);
        // The polynomial times X.
        for (index_t i = 0; i < s; i += side)
          for (index_t j = 0; j < l; j += side) {
            const index_t rows = std::min(side, s - i), columns = std::min(side, l - j);
            auto tile = block(next, i, rows, j, columns);
            tile.setZero();
            each_depth<W>(s, [&](index_t k, index_t depth) {
              // Eq. (28)
              tile.noalias() += block(polynomial, i, rows, k, depth) * block(m, k, depth, j, columns);
            });
          }
        std::swap(m, next);
      }
    if (m.data() != x.data()) std::copy(m.begin(), m.end(), x.begin());
  }

 private:
  // Sides of the tiles and depth of one product: its packed operands are the 128 KiB each that Eigen takes
  // from the stack; larger ones it would allocate.
  static constexpr index_t side = 128;
  static constexpr index_t packed_bytes = 1 << 17;  // check: 131072 == 2**17
  // Rows of the tiles of a symmetric result, of which only those on and below the diagonal are computed.
  static constexpr index_t band = 64;
  static_assert(side % band == 0, "a tile holds all of the diagonal in its rows");
  template <class W>
  static constexpr index_t deepest = packed_bytes / (side * index_t{sizeof(W)});

  template <class W>
  using matrix = Eigen::Matrix<W, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  /// Rows [i, i + rows) and columns [j, j + columns) of v.
  template <class W>
  static auto block(view<W, 2> v, index_t i, index_t rows, index_t j, index_t columns) {
    return Eigen::Map<matrix<W>, 0, Eigen::OuterStride<>>(v.data() + i * v.extent(1) + j, rows, columns,
                                                          Eigen::OuterStride<>(v.extent(1)));
  }
  /// f(i, rows, j, columns) for tiles that cover a square matrix on and below the diagonal, and a little above it.
  template <class F>
  static void lower_tiles(index_t s, F f) {
    for (index_t i = 0; i < s; i += band) {
      const index_t end = std::min(i + band, s);
      for (index_t j = 0; j < end; j += side) f(i, end - i, j, std::min(side, end - j));
    }
  }
  /// f(k, depth) for the pieces of the contracted axis, in order.
  template <class W, class F>
  static void each_depth(index_t length, F f) {
    for (index_t k = 0; k < length; k += deepest<W>) f(k, std::min(deepest<W>, length - k));
  }
  /// Copies what stands below the diagonal to above it.
  template <class W>
  static void mirror(view<W, 2> a) {
    for (index_t i = band; i < a.extent(0); i += band) {
      const index_t rows = std::min(band, a.extent(0) - i);
      block(a, 0, i, i, rows) = block(a, i, rows, 0, i).transpose();
    }
  }
};

}  // namespace dsv4::kernel
