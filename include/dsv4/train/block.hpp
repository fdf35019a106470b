// SPDX-License-Identifier: MIT
#pragma once
/// One transformer block, forward and backward: mHC around attention, mHC around the mixture of experts.
/// @paper{DSV4, Figure 2}
/// axes     t token · n stream · d channel
/// oracle   model/block.hpp (forward); golden/transformers/seed0/grads.safetensors
/// deviates none
#include "attention.hpp"
#include "hyper_connection.hpp"
#include "moe.hpp"

namespace dsv4::train {

/// A half block between its mHC read and write.
template <class T>
struct half_saved {
  hyper_saved<T> streams;
  view<T, 2> y;  // [t, d] read from the streams
  view<T, 1> r;  // [t]
  view<T, 2> x;  // [t, d] normed: the input of F
  view<T, 2> f;  // [t, d] F(x)

  static half_saved take(workspace& w, index_t t, index_t n, index_t d) {
    return {hyper_saved<T>::take(w, t, n), w.take<T>(t, d), w.take<T>(t), w.take<T>(t, d), w.take<T>(t, d)};
  }
};

/// All that the way back needs besides the block's input.
template <class T>
struct block_saved {
  half_saved<T> attn_half, ffn_half;
  attention_saved<T> attn;
  view<T, 3> mid;  // [t, n, d] streams between the halves
  moe_saved<T> ffn;

  static block_saved take(workspace& w, const layer_context& l) {
    const config& c = *l.c;
    const index_t t = l.samples->tokens(), n = c.hc_mult, d = c.hidden_size;
    return {half_saved<T>::take(w, t, n, d), half_saved<T>::take(w, t, n, d), attention_saved<T>::take(w, l),
            w.take<T>(t, n, d), moe_saved<T>::take(w, c, t)};
  }
};

/// How a layer's experts are chosen: the first of the three that is not empty.
struct route_rule {
  view<const std::int32_t, 2> forced;  // [t, k]
  view<const std::int32_t, 2> table;   // [vocab, k]
  view<const float, 1> bias;           // [e]

  bool learned() const { return !table.data(); }
};

/// out [t, n, d] = block(h).
template <execution E, class T>
void block(E& e, workspace& scratch, const layer_context& l, const objective& want,
           const block_parameters<const T>& w, const route_rule& route, view<T, 3> h /*[t,n,d]*/,
           block_saved<T>& s, view<T, 3> out /*[t,n,d]*/) {
  const config& c = *l.c;
  {
    half_saved<T>& half = s.attn_half;
    hyper_read(e, c, h, w.hc_attn, half.streams, half.y);
    rms_norm(e, half.y, w.attn_norm, c.rms_norm_eps, half.r, half.x);
    attention(e, scratch, l, want, half.x, w.attn, s.attn, half.f);
    hyper_write(e, h, half.f, half.streams, s.mid);
  }
  {
    half_saved<T>& half = s.ffn_half;
    hyper_read(e, c, s.mid, w.hc_ffn, half.streams, half.y);
    rms_norm(e, half.y, w.ffn_norm, c.rms_norm_eps, half.r, half.x);
    gate<E, T>(e, c, half.x, l.samples->ids, w.ffn.gate.weight, route.bias, route.table, route.forced,
               s.ffn.gate);
    s.ffn.rows = assignments::of(scratch, c, s.ffn.gate);
    experts(e, scratch, c, half.x, w.ffn, s.ffn, half.f);
    hyper_write(e, s.mid, half.f, half.streams, out);
  }
}

/// Factors of the losses that live inside a block, the batch's means included.
struct block_scales {
  double index = 0;    ///< of the indexer's KL, per query
  double balance = 0;  ///< of the balance loss, per sample
};
/// Their values, summed over queries and over samples.
struct block_losses {
  double index_kl = 0, balance = 0;
};

/// dout [t, n, d] -> dh [t, n, d] (set); dw += …
template <execution E, class T>
block_losses block_backward(E& e, workspace& scratch, const layer_context& l, const objective& want,
                            const block_scales& scales, view<T, 3> dout /*[t,n,d]*/,
                            const block_parameters<const T>& w, bool learned, view<T, 3> h /*[t,n,d]*/,
                            const block_saved<T>& s, view<T, 3> dh /*[t,n,d]*/,
                            const block_parameters<T>& dw) {
  workspace::scope here(scratch);
  const config& c = *l.c;
  const index_t t = h.extent(0), n = h.extent(1), d = h.extent(2);
  auto dmid = scratch.take<T>(t, n, d);  // [t, n, d]
  block_losses losses;

  /// One half: through the write, F, the norm and the read.
  const auto half_backward = [&](const half_saved<T>& half, view<T, 3> dnext, view<T, 3> from,
                                 view<T, 3> dfrom, view<const T, 1> norm, const hyper_parameters<const T>& hc,
                                 view<T, 1> dnorm, const hyper_parameters<T>& dhc, auto inner) {
    workspace::scope mine(scratch);
    const auto ds = hyper_saved<T>::take(scratch, t, n);
    auto df = scratch.take<T>(t, d), dx = zeros<T>(e, scratch, t, d),
         dy = zeros<T>(e, scratch, t, d);  // [t, d]
    hyper_write_backward(e, dnext, from, half.f, half.streams, dfrom, df, ds);
    inner(df, dx);
    rms_norm_backward(e, dx, half.y, norm, half.r, dy, dnorm);
    hyper_read_backward(e, c, dy, from, hc, half.streams, ds, dfrom, dhc);
  };
  half_backward(s.ffn_half, dout, s.mid, dmid, w.ffn_norm, w.hc_ffn, dw.ffn_norm, dw.hc_ffn,
                [&](view<T, 2> df, view<T, 2> dx) {
                  losses.balance = moe_backward(e, scratch, c, *l.samples, df, s.ffn_half.x, w.ffn, s.ffn,
                                                T(scales.balance), learned, dx, dw.ffn);
                });
  half_backward(s.attn_half, dmid, h, dh, w.attn_norm, w.hc_attn, dw.attn_norm, dw.hc_attn,
                [&](view<T, 2> df, view<T, 2> dx) {
                  losses.index_kl = attention_backward(e, scratch, l, want, df, s.attn_half.x, w.attn, s.attn,
                                                       T(scales.index), dx, dw.attn);
                });
  return losses;
}

}  // namespace dsv4::train
