// SPDX-License-Identifier: MIT
#pragma once
/// Multi-token prediction: from the streams at position i and token i+1, the logits of token i+2.
/// @paper{DSV4, section 2.1 (as DeepSeek-V3, section 2.2)}
/// axes     t token · n = j stream · d channel
/// oracle   model.py, MTPBlock.forward
/// deviates any chunk length (the released generate.py does not call it)
///
/// x[j] = e_proj enorm(embedding of token i+1) + h_proj hnorm(h[j]), h the streams of the last layer
/// before the read-out; then one block (window only, a gate with bias), its own read-out and norm, and
/// the model's embedding and vocabulary.  The pair runs at position i.
#include "../mhc/head.hpp"
#include "../op/embedding.hpp"
#include "block.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, a [t, d], b [t, n, d]): b[t, j] = a[t] + b[t, j], one store.
template <execution E>
struct add_to_streams {
  static_assert(has_kernel<E>, "add_to_streams: no kernel for this executor");
};
template <>
struct add_to_streams<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<const A, 2> a, view<A, 3> b) {
    for (index_t t = 0; t < b.extent(0); ++t)
      for (index_t j = 0; j < b.extent(1); ++j)
        for (index_t d = 0; d < b.extent(2); ++d)
          b(t, j, d) = store<A>(widen<double>(a(t, d)) + widen<double>(b(t, j, d)));
  }
};
}  // namespace kernel

/// The block's input streams.
template <numerics_policy P, execution E, observer Tap>
void mtp_input(const call_context<E, Tap>& call, view<const std::int32_t, 1, mem_of<E>> next /*[t]*/,
               const basic_weight_matrix<mem_of<E>>& embed_table, const mtp_weights<storage_of<E>>& w,
               view<act_t<P>, 3, mem_of<E>> h /*[t,n,d]*/, view<act_t<P>, 3, mem_of<E>> x /*[t,n,d]*/) {
  using A = act_t<P>;
  using memory = mem_of<E>;
  const auto& [e, scratch, host, c, tap] = call;
  const typename call_context<E, Tap>::scope here(call);
  const index_t t = h.extent(0), n = h.extent(1), d = h.extent(2);
  auto token = take<A>(scratch, t, d), projected = take<A>(scratch, t, d);  // [t, d]
  embed(e, next, embed_table, token);
  rms_norm(e, token, w.enorm, c.rms_norm_eps, token);
  quantised_linear<P>(e, scratch, token, w.e_proj, projected);

  auto streams = take<A>(scratch, t * n, d);  // [t n, d], each stream normed by itself
  rms_norm(e, h.reshape(t * n, d), w.hnorm, c.rms_norm_eps, streams);
  quantised_linear<P>(e, scratch, streams, w.h_proj, x.reshape(t * n, d));
  kernel::add_to_streams<E>::run(e, view<const A, 2, memory>(projected), x);
}

}  // namespace dsv4
