// SPDX-License-Identifier: MIT
#pragma once
/// SwiGLU experts: one of them over many tokens, and all routed ones over a routed batch.
/// @paper{DSV4, section 2.1 and 4.2.3}
/// axes     t token · d channel · i intermediate channel · e expert · k choice
/// oracle   model.py, Expert.forward and MoE.forward
/// deviates none
///
/// y = w2 z, z = silu(min(w1 x, limit)) * clamp(w3 x, +-limit) * weight; each product has one store and,
/// when its weight is FP8/FP4, a quantised input.  The routing weight therefore enters before w2.
#include <vector>

#include "../core/config.hpp"
#include "../op/linear.hpp"
#include "../op/swiglu.hpp"
#include "gate.hpp"
#include "weights.hpp"

namespace dsv4 {

/// y = expert(x); `weight` is empty (shared expert) or one factor per token.
template <numerics_policy P, execution E>
void expert(E& e, scratch_of<E>& scratch, view<act_t<P>, 2, mem_of<E>> x /*[t,d]*/,
            const expert_weights<storage_of<E>>& w, view<const wide_t<E>, 1, mem_of<E>> weight /*[t]*/,
            double limit, view<act_t<P>, 2, mem_of<E>> y /*[t,d]*/) {
  using A = act_t<P>;
  const typename scratch_of<E>::scope here(scratch);
  const index_t t = x.extent(0), inner = w.w1.rows;
  auto a = take<A>(scratch, t, inner), u = take<A>(scratch, t, inner);  // [t, i]
  const product_input<P, E> input(e, scratch, x);
  input.times(e, w.w1, a);
  input.times(e, w.w3, u);
  swiglu(e, a, u, weight, limit, a);
  quantised_linear<P>(e, scratch, a, w.w2, y);
}

namespace kernel {
/// run<P>(e, scratch, x [t, d], route, experts, limit, routed [t, d]): wide sum over the chosen experts
/// in increasing expert id.
template <execution E>
struct experts {
  static_assert(has_kernel<E>, "experts: no kernel for this executor");
};

template <>
struct experts<exec::ref> {
  template <numerics_policy P>
  static void run(exec::ref& e, workspace& scratch, view<act_t<P>, 2> x, const routing<double>& route,
                  const std::vector<expert_weights<>>& all, double limit, view<double, 2> routed) {
    using A = act_t<P>;
    const index_t tokens = x.extent(0), d = x.extent(1), k = route.indices.extent(1);
    std::fill(routed.begin(), routed.end(), 0.0);
    for (index_t id = 0; id < static_cast<index_t>(all.size()); ++id) {
      // Gather the tokens of this expert and their weights …
      workspace::scope here(scratch);
      auto own = scratch.take<A>(tokens * k, d);
      auto weight = scratch.take<double>(tokens * k);
      auto token = scratch.take<index_t>(tokens * k);
      index_t n = 0;
      for (index_t t = 0; t < tokens; ++t)
        for (index_t j = 0; j < k; ++j)
          if (route.indices(t, j) == id) {
            std::copy_n(x[t].data(), d, own[n].data());
            weight[n] = route.weights(t, j);
            token[n++] = t;
          }
      if (n == 0) continue;
      // … run it, and add its (stored) output to theirs.
      auto y = scratch.take<A>(n, d);
      expert<P>(e, scratch, own.rows(0, n), all[static_cast<std::size_t>(id)], weight.rows(0, n), limit, y);
      for (index_t i = 0; i < n; ++i)
        for (index_t c = 0; c < d; ++c) routed(token[i], c) += widen<double>(y(i, c));
    }
  }
};
}  // namespace kernel

}  // namespace dsv4
