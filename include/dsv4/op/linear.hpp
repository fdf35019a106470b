// SPDX-License-Identifier: MIT
#pragma once
/// Products with a weight matrix in any stored format.
/// @paper{DSV4, section 2.3.4 and 5.2.1}
/// axes     t token · k input channel (contracted) · o output channel · g group
/// oracle   model.py, linear; kernel.py, fp8_gemm and fp4_gemm
/// deviates the sum is formed as if in real arithmetic (double here), with one store at the end; the
///          released kernels promote float partial sums per 128 (32) columns
///
/// `linear` takes its input as it is.  `quantised_linear` is what the model calls for projections that
/// the released code runs in FP8: it quantises the input when the policy does and the weight is FP8/FP4.
#include <vector>

#include "../core/tensor.hpp"
#include "../num/policy.hpp"
#include "act_quant.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, x, w [o, k], y [t, o]) with x either view<const A, 2> [t, k] or quantised_activations.
template <execution E>
struct linear {
  static_assert(has_kernel<E>, "linear: no kernel for this executor");
};
/// run(e, x [t, g, k], w [g r, k], y [t, g, r]): each group its own rows of w.
template <execution E>
struct grouped_linear {
  static_assert(has_kernel<E>, "grouped_linear: no kernel for this executor");
};

/// A row of w as wide numbers, code * scale.
inline void dequantise_row(const weight_matrix& w, index_t o, std::vector<double>& row /*[k]*/) {
  row.resize(static_cast<std::size_t>(w.cols));
  for (index_t k = 0; k < w.cols; ++k) row[static_cast<std::size_t>(k)] = w.at(o, k);
}
/// x as wide numbers, exact.
template <class A>
tensor<double, 2> widened(const view<const A, 2>& x) {
  tensor<double, 2> y(x.extent(0), x.extent(1));
  for (index_t i = 0; i < x.size(); ++i) y.data()[i] = widen<double>(x.data()[i]);
  return y;
}
inline tensor<double, 2> widened(const quantised_activations& x) {
  tensor<double, 2> y(x.rows(), x.cols());
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t k = 0; k < x.cols(); ++k) y(t, k) = x.at(t, k);
  return y;
}

template <>
struct linear<exec::ref> {
  // einsum: t k, o k -> t o
  template <class X, class Y>
  static void run(exec::ref&, const X& x, const weight_matrix& w, view<Y, 2> y) {
    const tensor<double, 2> in = widened(x);  // [t, k]
    std::vector<double> row;                  // [k]
    for (index_t o = 0; o < w.rows; ++o) {
      dequantise_row(w, o, row);
      for (index_t t = 0; t < y.extent(0); ++t) {
        const double* xt = in[t].data();
        double sum = 0;
        for (index_t k = 0; k < w.cols; ++k) sum += xt[k] * row[static_cast<std::size_t>(k)];
        y(t, o) = store<Y>(sum);
      }
    }
  }
};

template <>
struct grouped_linear<exec::ref> {
  // einsum: t g k, g r k -> t g r
  template <class A, class Y>
  static void run(exec::ref&, view<const A, 3> x, const weight_matrix& w, view<Y, 3> y) {
    const index_t groups = x.extent(1), r = y.extent(2);
    std::vector<double> row;  // [k]
    for (index_t g = 0; g < groups; ++g)
      for (index_t o = 0; o < r; ++o) {
        dequantise_row(w, g * r + o, row);
        for (index_t t = 0; t < x.extent(0); ++t) {
          double sum = 0;
          for (index_t k = 0; k < w.cols; ++k)
            sum += widen<double>(x(t, g, k)) * row[static_cast<std::size_t>(k)];
          y(t, g, o) = store<Y>(sum);
        }
      }
  }
};
}  // namespace kernel

/// y = x w^T, x not quantised.  y may be a stored activation or wide.  @throws contract_violation.
template <execution E, class A, class Y>
void linear(E& e, view<A, 2, mem_of<E>> x /*[t,k]*/, const basic_weight_matrix<mem_of<E>>& w /*[o,k]*/,
            view<Y, 2, mem_of<E>> y /*[t,o]*/) {
  expects_equal(x.extent(1), w.cols, "linear: channels of x against columns of w");
  expects_equal(y.extent(1), w.rows, "linear: channels of y against rows of w");
  expects_equal(y.extent(0), x.extent(0), "linear: rows of y against rows of x");
  kernel::linear<E>::run(e, view<const A, 2, mem_of<E>>(x), w, y);
}

/// y = dequantised(x) w^T: FP8 codes times FP8 or FP4 codes, one store at the end.
template <execution E, class Y>
void linear(E& e, const basic_quantised_activations<mem_of<E>>& x /*[t,k]*/,
            const basic_weight_matrix<mem_of<E>>& w /*[o,k]*/, view<Y, 2, mem_of<E>> y /*[t,o]*/) {
  expects_equal(x.cols(), w.cols, "linear: channels of x against columns of w");
  expects_equal(y.extent(1), w.rows, "linear: channels of y against rows of w");
  expects_equal(y.extent(0), x.rows(), "linear: rows of y against rows of x");
  kernel::linear<E>::run(e, x, w, y);
}

/// An input of one or more quantised products, quantised once.  Under a policy without quantisation,
/// or for weights that are not FP8/FP4, the products take x itself.
template <numerics_policy P, execution E>
class product_input {
 public:
  product_input(E& e, scratch_of<E>& scratch, view<act_t<P>, 2, mem_of<E>> x /*[t,k]*/) : x_(x) {
    if constexpr (P::quantised) {
      auto code = take<e4m3>(scratch, x.extent(0), x.extent(1));
      auto scale = take<float>(scratch, x.extent(0), (x.extent(1) + fp8_tile - 1) / fp8_tile);
      act_quant(e, x, code, scale);
      quantised_ = {code, scale};
    }
  }
  /// y = x w^T, one store.
  template <class Y>
  void times(E& e, const basic_weight_matrix<mem_of<E>>& w /*[o,k]*/,
             view<Y, 2, mem_of<E>> y /*[t,o]*/) const {
    if constexpr (P::quantised)
      if (w.quantised()) return linear(e, quantised_, w, y);
    linear(e, x_, w, y);
  }

 private:
  view<act_t<P>, 2, mem_of<E>> x_;
  basic_quantised_activations<mem_of<E>> quantised_;
};

/// y = quantise(x) w^T in one step.
template <numerics_policy P, execution E, class Y>
void quantised_linear(E& e, scratch_of<E>& scratch, view<act_t<P>, 2, mem_of<E>> x /*[t,k]*/,
                      const basic_weight_matrix<mem_of<E>>& w /*[o,k]*/, view<Y, 2, mem_of<E>> y /*[t,o]*/) {
  const typename scratch_of<E>::scope here(scratch);
  product_input<P, E>(e, scratch, x).times(e, w, y);
}

/// y[t, g] = x[t, g] w[g]^T, x not quantised.
template <execution E, class A, class Y>
void grouped_linear(E& e, view<A, 3, mem_of<E>> x /*[t,g,k]*/,
                    const basic_weight_matrix<mem_of<E>>& w /*[g r,k]*/,
                    view<Y, 3, mem_of<E>> y /*[t,g,r]*/) {
  expects_equal(x.extent(2), w.cols, "grouped_linear: channels of x against columns of w");
  expects_equal(y.extent(1) * y.extent(2), w.rows, "grouped_linear: groups times outputs against rows of w");
  kernel::grouped_linear<E>::run(e, view<const A, 3, mem_of<E>>(x), w, y);
}

}  // namespace dsv4
