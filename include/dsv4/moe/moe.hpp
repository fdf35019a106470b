// SPDX-License-Identifier: MIT
#pragma once
/// Mixture of experts: routed experts plus the shared one.
/// @paper{DSV4, section 2.1}
/// axes     t token · d channel
/// oracle   model.py, MoE.forward
/// deviates none
#include "expert.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, routed [t, d] wide, shared [t, d], out [t, d]): out = routed + shared, one store.
template <execution E>
struct add_shared {
  static_assert(has_kernel<E>, "add_shared: no kernel for this executor");
};
template <>
struct add_shared<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<const double, 2> routed, view<const A, 2> shared, view<A, 2> out) {
    for (index_t i = 0; i < out.size(); ++i)
      out.data()[i] = store<A>(routed.data()[i] + widen<double>(shared.data()[i]));
  }
};
}  // namespace kernel

/// out = sum of the routed experts + shared expert, one store.
template <numerics_policy P, execution E, observer Tap>
void moe(const call_context<E, Tap>& call, view<act_t<P>, 2, mem_of<E>> x /*[t,d]*/,
         view<const std::int32_t, 1, mem_of<E>> ids /*[t]*/, const moe_weights<storage_of<E>>& w,
         view<act_t<P>, 2, mem_of<E>> out /*[t,d]*/) {
  using A = act_t<P>;
  using W = wide_t<E>;
  using memory = mem_of<E>;
  const auto& [e, scratch, host, c, tap] = call;
  const typename call_context<E, Tap>::scope here(call);
  const auto route = gate(call, x, ids, w.gate);

  auto routed = take<W>(scratch, x.extent(0), x.extent(1));  // [t, d]
  kernel::experts<E>::template run<P>(e, scratch, x, route, w.experts, c.swiglu_limit, routed);
  tap.rows(site::ffn_routed, routed);

  auto shared = take<A>(scratch, x.extent(0), x.extent(1));  // [t, d]
  expert<P>(e, scratch, x, w.shared, {}, c.swiglu_limit, shared);
  tap.rows(site::ffn_shared, shared);

  kernel::add_shared<E>::run(e, view<const W, 2, memory>(routed), view<const A, 2, memory>(shared), out);
  tap.rows(site::ffn_out, out);
}

}  // namespace dsv4
