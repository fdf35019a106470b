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
struct head_weights {
  const hyper_connection_weights<>* mix;
  view<const float, 1> norm;        // [d]
  const weight_matrix* vocabulary;  // [v, d]
};

/// logits [t, v] of the streams h [t, n, d].
template <execution E, class A, observer Tap>
void head(E& e, workspace& scratch, const tapper<Tap>& tap, const config& c, view<A, 3> h /*[t,n,d]*/,
          const head_weights& w, view<wide_t<E>, 2> logits /*[t,v]*/) {
  using W = wide_t<E>;
  workspace::scope here(scratch);
  const index_t t = h.extent(0), n = h.extent(1), d = h.extent(2);
  auto mixes = scratch.take<W>(t, n);  // [t, n]
  auto pre = scratch.take<W>(t, n);    // [t, n]
  auto y = scratch.take<A>(t, d);      // [t, d]

  // pre_j = sigmoid(mix_j scale + base_j) + eps
  kernel::hc_mixes<E>::run(e, view<const A, 2>(h.reshape(t, n * d)), w.mix->fn, c.rms_norm_eps, mixes);
  for (index_t i = 0; i < t; ++i)
    for (index_t j = 0; j < n; ++j)
      pre(i, j) = hyper_pre(mixes(i, j), W(w.mix->scale[0]), W(w.mix->base[j]), W(c.hc_eps));
  tap.rows(site::hc_head_pre, pre);
  kernel::hc_collapse<E>::run(e, view<const W, 2>(pre), view<const A, 3>(h), y);
  tap.rows(site::hc_head_y, y);
  rms_norm(e, y, w.norm, c.rms_norm_eps, y);
  tap.rows(site::head_norm, y);
  linear(e, y, *w.vocabulary, logits);
  tap.rows(site::logits, logits);
}

}  // namespace dsv4
