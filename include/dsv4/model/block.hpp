// SPDX-License-Identifier: MIT
#pragma once
/// One transformer block: attention and mixture of experts, each between an mHC read and write.
/// @paper{DSV4, Figure 2}
/// axes     t token · n stream · d channel
/// oracle   model.py, Block.forward
/// deviates none
#include "../attn/attention.hpp"
#include "../mhc/post.hpp"
#include "../moe/moe.hpp"
#include "weights.hpp"

namespace dsv4 {

/// h [t, n, d] after the block, in place.
template <numerics_policy P, execution E, observer Tap>
void block(const call_context<E, Tap>& call, const layer_batch<P, E>& batch,
           const block_weights<storage_of<E>>& w, view<act_t<P>, 3, mem_of<E>> h /*[t,n,d]*/) {
  using A = act_t<P>;
  using scope = typename call_context<E, Tap>::scope;
  const auto& [e, scratch, host, c, tap] = call;
  const scope here(call);
  const index_t t = h.extent(0), d = h.extent(2);
  auto x = take<A>(scratch, t, d), out = take<A>(scratch, t, d);  // [t, d]

  // h <- B h + C attention(norm(A h))
  {
    const scope half(call);
    const auto mix = hc_pre(call, hc_attn_sites, h, w.hc_attn, x);
    rms_norm(e, x, w.attn_norm, c.rms_norm_eps, x);
    tap.rows(site::attn_norm, x);
    attention(call, batch, x, w.attn, out);
    hc_post(e, out, mix, h);
    tap.rows(site::mid, h);
  }
  // h <- B h + C moe(norm(A h))
  {
    const scope half(call);
    const auto mix = hc_pre(call, hc_ffn_sites, h, w.hc_ffn, x);
    rms_norm(e, x, w.ffn_norm, c.rms_norm_eps, x);
    tap.rows(site::ffn_norm, x);
    moe<P>(call, x, batch.ids, w.ffn, out);
    hc_post(e, out, mix, h);
    tap.rows(site::out, h);
  }
}

}  // namespace dsv4
