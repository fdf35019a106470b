// SPDX-License-Identifier: MIT
#pragma once
/// SwiGLU with clamps: the non-linearity of every expert, routed and shared.
/// @paper{DSV4, section 4.2.3}
/// axes     t token · i intermediate channel
/// oracle   model.py, Expert.forward
/// deviates none
///
/// The gate branch a is clamped above only, the linear branch u on both sides; the routing weight
/// multiplies BEFORE the down projection (and before its quantisation).
#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../num/formulas.hpp"
#include "../num/round.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, a [t, i], u [t, i], weight [t] or empty, limit, z [t, i]); z may be a or u.
template <execution E>
struct swiglu {
  static_assert(has_kernel<E>, "swiglu: no kernel for this executor");
};

template <>
struct swiglu<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<const A, 2> a, view<const A, 2> u, view<const double, 1> weight,
                  double limit, view<A, 2> z) {
    for (index_t t = 0; t < a.extent(0); ++t)
      for (index_t i = 0; i < a.extent(1); ++i) {
        const double w = weight.extent(0) ? weight[t] : 1.0;
        z(t, i) = store<A>(swiglu_value(widen<double>(a(t, i)), widen<double>(u(t, i)), limit, w));
      }
  }
};
}  // namespace kernel

/// z = silu(min(a, limit)) * clamp(u, +-limit) * weight, one store.  An empty weight means 1.
template <execution E, class A>
void swiglu(E& e, view<A, 2, mem_of<E>> a /*[t,i]*/, view<A, 2, mem_of<E>> u /*[t,i]*/,
            view<const wide_t<E>, 1, mem_of<E>> weight /*[t]*/, double limit,
            view<A, 2, mem_of<E>> z /*[t,i]*/) {
  expects(a.extents() == u.extents() && a.extents() == z.extents(), "swiglu: a, u and z disagree");
  kernel::swiglu<E>::run(e, view<const A, 2, mem_of<E>>(a), view<const A, 2, mem_of<E>>(u), weight, limit, z);
}

}  // namespace dsv4
