// SPDX-License-Identifier: MIT
#pragma once
/// Root-mean-square normalisation, with a learned weight, or per head without one.
/// @paper{DSV4, section 2.3.3}
/// axes     t token · d channel · h head
/// oracle   model.py, RMSNorm; Attention.forward, the q normalisation
/// deviates none
///
/// Two different operators: the weighted norm is one wide expression with one store; the per-head norm
/// of q is computed in the storage type, every step stored (under float32 the stores change nothing).
/// @post (1) without weight, the mean of y^2 is 1 up to eps   (2) x = 0 gives y = 0
#include <cmath>

#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../num/formulas.hpp"
#include "../num/round.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, x [t, d], w [d], eps, y [t, d]); y may be x.
template <execution E>
struct rms_norm {
  static_assert(has_kernel<E>, "rms_norm: no kernel for this executor");
};
/// run(e, q [t, h, d], eps), in place.
template <execution E>
struct head_norm {
  static_assert(has_kernel<E>, "head_norm: no kernel for this executor");
};

template <>
struct rms_norm<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<const A, 2> x, view<const float, 1> w, double eps, view<A, 2> y) {
    for (index_t t = 0; t < x.extent(0); ++t) {
      // r = 1 / sqrt(mean x^2 + eps)
      double squares = 0;
      for (index_t d = 0; d < x.extent(1); ++d) squares += widen<double>(x(t, d)) * widen<double>(x(t, d));
      const double r = inverse_rms(squares, double(x.extent(1)), eps);
      for (index_t d = 0; d < x.extent(1); ++d) y(t, d) = store<A>(widen<double>(x(t, d)) * r * double(w[d]));
    }
  }
};

template <>
struct head_norm<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<A, 3> q, double eps) {
    for (index_t t = 0; t < q.extent(0); ++t)
      for (index_t h = 0; h < q.extent(1); ++h) {
        // mean of the stored squares, itself stored
        double squares = 0;
        for (index_t d = 0; d < q.extent(2); ++d) {
          const double v = widen<double>(q(t, h, d));
          squares += rounded<A>(v * v);
        }
        const double mean = rounded<A>(squares / double(q.extent(2)));
        const double r = rounded<A>(1 / std::sqrt(rounded<A>(mean + eps)));
        for (index_t d = 0; d < q.extent(2); ++d) q(t, h, d) = store<A>(widen<double>(q(t, h, d)) * r);
      }
  }
};
}  // namespace kernel

/// y = x / sqrt(mean(x^2) + eps) * w, one store.  @throws contract_violation on shapes.
template <execution E, class A>
void rms_norm(E& e, view<A, 2, mem_of<E>> x /*[t,d]*/, view<const float, 1, mem_of<E>> w /*[d]*/, double eps,
              view<A, 2, mem_of<E>> y /*[t,d]*/) {
  expects_equal(w.extent(0), x.extent(1), "rms_norm: channels of the weight against x");
  expects(x.extents() == y.extents(), "rms_norm: x and y disagree");
  kernel::rms_norm<E>::run(e, view<const A, 2, mem_of<E>>(x), w, eps, y);
}

/// Each head of q divided by its root mean square, no weight, every step stored.
template <execution E, class A>
void head_norm(E& e, view<A, 3, mem_of<E>> q /*[t,h,d]*/, double eps) {
  kernel::head_norm<E>::run(e, q, eps);
}

}  // namespace dsv4
