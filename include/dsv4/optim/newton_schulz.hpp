// SPDX-License-Identifier: MIT
#pragma once
/// Orthogonalisation of one matrix: every singular value goes (nearly) to 1, the singular vectors stay.
/// @paper{DSV4, section 2.4, Eq. (28)}
/// axes     o, i rows and columns of the matrix · s, l its short and its long side, s <= l
/// oracle   golden/optimizer, ns
/// deviates the norm is taken with the largest entry divided out, so that no square over- or underflows;
///          a matrix with more rows than columns is iterated transposed: the same result, the small products
///
/// Eight steps drive singular values from anywhere above 3e-4 of the norm to between 0.68 and 1.14, two
/// slower ones then close in on 1.  Smaller ones grow by less than `newton_schulz_growth` and may end
/// anywhere between 0 and 1: a matrix of low rank stays one of low rank, but for the noise of its entries.
/// @post (1) singular values of x at 3e-4 and more of its Frobenius norm end in [1 - eps, 1.00054]
///       (2) no singular value above 1.0021   (3) x = 0 gives y = 0   (4) the transpose of x gives that of y
///       (5) the scale of x does not matter   (6) a NaN or an infinity in x makes all of y NaN
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../core/fold.hpp"
#include "../core/tensor.hpp"

namespace dsv4 {

/// One step: X <- a X + b (X X^T) X + c (X X^T)^2 X.
struct newton_schulz_polynomial {
  double a, b, c;
  int steps;
};
/// First the fast polynomial, which only comes near 1, then one that has 1 as its double fixed point.
inline constexpr newton_schulz_polynomial hybrid_newton_schulz[] = {{3.4445, -4.7750, 2.0315, 8},
                                                                    {2, -1.5, 0.5, 2}};
static_assert(hybrid_newton_schulz[1].a + hybrid_newton_schulz[1].b + hybrid_newton_schulz[1].c == 1);
static_assert(hybrid_newton_schulz[1].a + 3 * hybrid_newton_schulz[1].b + 5 * hybrid_newton_schulz[1].c == 0);

/// Factor by which the smallest singular values, and the rounding of x with them, grow over all steps.
inline constexpr double newton_schulz_growth = 79263;  // check: 79263 == round(3.4445**8 * 2**2)

namespace kernel {
/// run(e, scratch, x [s, l]): all steps of Newton-Schulz in place; x has Frobenius norm 1 and s <= l.
/// number<T>: the type in which a matrix of T (float or double) is iterated.  It is its own: number<number<T>> is number<T>.
template <execution E>
struct newton_schulz {
  static_assert(has_kernel<E>, "newton_schulz: no kernel for this executor");
};

template <>
struct newton_schulz<exec::ref> {
  template <class T>
  using number = double;

  static void run(exec::ref&, workspace& scratch, view<double, 2> x /*[s,l]*/) {
    const index_t s = x.extent(0), l = x.extent(1);
    const workspace::scope here(scratch);
    auto gram = scratch.take<double>(s, s);   // X X^T
    auto cubic = scratch.take<double>(s, l);  // (X X^T) X
    auto fifth = scratch.take<double>(s, l);  // (X X^T)^2 X
    for (const auto& p : hybrid_newton_schulz)
      for (int step = 0; step < p.steps; ++step) {
        times_transpose(x, gram);
        times(gram, x, cubic);
        times(gram, cubic, fifth);
        for (index_t n = 0; n < x.size(); ++n)
          x.data()[n] = p.a * x.data()[n] + p.b * cubic.data()[n] + p.c * fifth.data()[n];  // Eq. (28)
      }
  }

 private:
  // einsum: i k, j k -> i j
  static void times_transpose(view<const double, 2> x, view<double, 2> y) {
    for (index_t i = 0; i < y.extent(0); ++i)
      for (index_t j = 0; j < y.extent(1); ++j) {
        double sum = 0;
        for (index_t k = 0; k < x.extent(1); ++k) sum += x(i, k) * x(j, k);
        y(i, j) = sum;
      }
  }
  // einsum: i k, k j -> i j
  static void times(view<const double, 2> a, view<const double, 2> x, view<double, 2> y) {
    for (index_t i = 0; i < y.extent(0); ++i) {
      for (index_t j = 0; j < y.extent(1); ++j) y(i, j) = 0;
      for (index_t k = 0; k < x.extent(0); ++k)
        for (index_t j = 0; j < y.extent(1); ++j) y(i, j) += a(i, k) * x(k, j);
    }
  }
};
}  // namespace kernel

/// A Frobenius norm as two factors, either of which may be multiplied and divided by without overflow.
struct scaled_norm {
  double largest;   ///< the largest absolute entry, NaN if any is; 0: all entries are 0
  double relative;  ///< the norm of the entries divided by `largest`
};
template <class T>
scaled_norm frobenius_norm(view<const T, 2> x) {
  const auto size = [=](index_t n) { return std::fabs(double(x.data()[n])); };
  const double largest =
      fold(x.size(), 0.0, size, [](double a, double b) { return b > a || std::isnan(b) ? b : a; });
  if (largest == 0) return {0, 0};
  const double squares =
      fold(x.size(), 0.0, [=](index_t n) { return size(n) / largest * (size(n) / largest); });
  return {largest, std::sqrt(squares)};
}

/// y = HybridNewtonSchulz(x); y may be x.  Allocates nothing that `scratch` does not keep.
/// @throws contract_violation when the shapes differ.
template <execution E, class T>
void newton_schulz(E& e, workspace& scratch, view<T, 2> x /*[o,i]*/,
                   view<std::remove_const_t<T>, 2> y /*[o,i]*/) {
  using W = typename kernel::newton_schulz<E>::template number<std::remove_const_t<T>>;
  expects(x.extents() == y.extents(), "newton_schulz: shapes of x and y disagree");
  if (x.size() == 0) return;
  // A zero matrix has no direction to keep.
  const scaled_norm norm = frobenius_norm(view<const T, 2>(x));
  if (norm.largest == 0) {
    for (auto& v : y) v = 0;
    return;
  }
  // M_0 = x / |x|_F, transposed if it is tall, so that the small products are those of its short side.
  const index_t rows = x.extent(0), columns = x.extent(1);
  const bool tall = rows > columns;
  const workspace::scope here(scratch);
  auto m = scratch.take<W>(std::min(rows, columns), std::max(rows, columns));  // [s,l]
  // f(entry of m, number of the same entry in x and y)
  const auto each = [&](auto f) {
    for (index_t n = 0; !tall && n < m.size(); ++n) f(m.data()[n], n);
    for (index_t s = 0; tall && s < columns; ++s)
      for (index_t l = 0; l < rows; ++l) f(m(s, l), l * columns + s);
  };
  each([&](W& entry, index_t n) { entry = W(double(x.data()[n]) / norm.largest / norm.relative); });
  kernel::newton_schulz<E>::run(e, scratch, m);
  each([&](W& entry, index_t n) { y.data()[n] = static_cast<std::remove_const_t<T>>(entry); });
}

}  // namespace dsv4
