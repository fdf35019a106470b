// SPDX-License-Identifier: MIT
#pragma once
/// mHC read-out and prediction head: streams to one vector, final norm, logits.
/// axes     t token · n = j stream · d channel · v vocabulary
/// oracle   model.py, ParallelHead.hc_head and forward
/// deviates logits of every position (the released code gives the last one)
///
/// As in hc_pre but without Sinkhorn: one weight per stream, sigmoid + eps.  Logits stay wide.
#include "../op/linear.hpp"
#include "../op/rms_norm.hpp"
#include "pre.hpp"

namespace dsv4 {

/// Where the head's weights lie: the model's own, or those of an MTP block with the shared vocabulary.
template <class Mem = mem::host>
struct head_weights {
  const hyper_connection_weights<storage::in_memory<Mem>>* mix;
  view<const float, 1, Mem> norm;              // [d]
  const basic_weight_matrix<Mem>* vocabulary;  // [v, d]
};

namespace kernel {
/// run(e, mixes [t, n], how, pre [t, n]): pre_j = sigmoid(mix_j scale + base_j) + eps.
template <execution E>
struct head_weights_of_streams {
  static_assert(has_kernel<E>, "head_weights_of_streams: no kernel for this executor");
};
template <host_execution E>
struct head_weights_of_streams<E> {
  using W = wide_t<E>;
  static void run(E&, view<const W, 2> mixes, const hyper_split<>& how, view<W, 2> pre) {
    for (index_t t = 0; t < pre.extent(0); ++t)
      for (index_t j = 0; j < pre.extent(1); ++j)
        pre(t, j) = hyper_pre(mixes(t, j), W(how.scale[0]), W(how.base[j]), W(how.eps));
  }
};
}  // namespace kernel

/// logits [t, v] of the streams h [t, n, d].
template <execution E, class A, observer Tap>
void head(const call_context<E, Tap>& call, view<A, 3, mem_of<E>> h /*[t,n,d]*/,
          const head_weights<mem_of<E>>& w, view<wide_t<E>, 2, mem_of<E>> logits /*[t,v]*/) {
  using W = wide_t<E>;
  using memory = mem_of<E>;
  const auto& [e, scratch, host, c, tap] = call;
  const typename call_context<E, Tap>::scope here(call);
  const index_t t = h.extent(0), n = h.extent(1), d = h.extent(2);
  auto mixes = take<W>(scratch, t, n);  // [t, n]
  auto pre = take<W>(scratch, t, n);    // [t, n]
  auto y = take<A>(scratch, t, d);      // [t, d]

  kernel::hc_mixes<E>::run(e, view<const A, 2, memory>(h.reshape(t, n * d)), w.mix->fn, c.rms_norm_eps,
                           mixes);
  kernel::head_weights_of_streams<E>::run(e, view<const W, 2, memory>(mixes),
                                          hyper_split<memory>{w.mix->scale, w.mix->base, 0, c.hc_eps}, pre);
  tap.rows(site::hc_head_pre, pre);
  kernel::hc_collapse<E>::run(e, view<const W, 2, memory>(pre), view<const A, 3, memory>(h), y);
  tap.rows(site::hc_head_y, y);
  rms_norm(e, y, w.norm, c.rms_norm_eps, y);
  tap.rows(site::head_norm, y);
  linear(e, y, *w.vocabulary, logits);
  tap.rows(site::logits, logits);
}

}  // namespace dsv4
