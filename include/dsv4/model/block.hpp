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

/// h [t, n, d] after the block, in place.  `states[i]` is this block's attention memory of sequence i.
template <numerics_policy P, execution E, observer Tap>
void block(E& e, workspace& scratch, const tapper<Tap>& tap, const config& c, index_t ratio,
           std::span<const std::int32_t> ids /*[t]*/, const rotary_context& rotary, const block_weights<>& w,
           std::span<attention_state<P, E>* const> states, view<act_t<P>, 3> h /*[t,n,d]*/) {
  using A = act_t<P>;
  workspace::scope here(scratch);
  const index_t t = h.extent(0), d = h.extent(2);
  auto x = scratch.take<A>(t, d), out = scratch.take<A>(t, d);  // [t, d]

  // h <- B h + C attention(norm(A h))
  {
    workspace::scope half(scratch);
    const auto mix = hc_pre(e, scratch, tap, hc_attn_sites, c, h, w.hc_attn, x);
    rms_norm(e, x, w.attn_norm, c.rms_norm_eps, x);
    tap.rows(site::attn_norm, x);
    attention<P>(e, scratch, tap, c, ratio, x, rotary, w.attn, states, out);
    hc_post(e, out, mix, h);
    tap.rows(site::mid, h);
  }
  // h <- B h + C moe(norm(A h))
  {
    workspace::scope half(scratch);
    const auto mix = hc_pre(e, scratch, tap, hc_ffn_sites, c, h, w.hc_ffn, x);
    rms_norm(e, x, w.ffn_norm, c.rms_norm_eps, x);
    tap.rows(site::ffn_norm, x);
    moe<P>(e, scratch, tap, c, x, ids, w.ffn, out);
    hc_post(e, out, mix, h);
    tap.rows(site::out, h);
  }
}

}  // namespace dsv4
