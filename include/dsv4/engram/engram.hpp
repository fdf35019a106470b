// SPDX-License-Identifier: MIT
#pragma once
/// Engram: what the last few tokens recall, added to the residual streams before a block.
/// source   Engram; as released with DeepSeek-V4.1, without the short convolution
/// axes     t token · c column · i channel of an embedding, all columns · s stream · d channel · o output of wkv
/// oracle   golden/engram/module_v41.safetensors; finite differences
///
///   e = rows of the table side by side      [keys of every stream ; value] = e wkv^T      gate.hpp
///
/// wkv has (s + 1) d rows: the first s d give each stream its key, the last d the one value that all of them take.
#include "../core/fold.hpp"
#include "../core/tensor.hpp"
#include "gate.hpp"
#include "table.hpp"

namespace dsv4::engram {

/// Weights of one layer, or their gradients.  The table is apart: it is huge, and sparse.
template <class T>
struct engram_weights {
  view<T, 2> wkv;       // [o,i]
  view<T, 2> q_weight;  // [s,d]
  view<T, 2> k_weight;  // [s,d]
};

namespace detail {

template <class T>
tensor<T, 2> fused_weight(const engram_weights<const T>& w) {
  tensor<T, 2> fused(w.q_weight.extent(0), w.q_weight.extent(1));
  for (index_t i = 0; i < fused.size(); ++i) fused.data()[i] = w.q_weight.data()[i] * w.k_weight.data()[i];
  return fused;
}

/// Keys [s, d] and value [d] within the outputs of wkv.
template <class T>
view<T, 2> keys_of(view<T, 1> kv, index_t streams, index_t width) {
  return {kv.data(), streams, width};
}
template <class T>
view<T, 1> value_of(view<T, 1> kv, index_t streams, index_t width) {
  return {kv.data() + streams * width, width};
}

}  // namespace detail

/// out = streams with what the tokens recall; `round` is what a store of keys and values does (identity in float32, BF16 in
/// the official numerics).  closed [t]: dead tokens; an empty view means none.
template <class T, class Round>
void engram_forward(view<const T, 3> h /*[t,s,d]*/, view<const T, 2> e /*[t,i]*/,
                    const engram_weights<const T>& w, T eps, view<const std::uint8_t, 1> closed /*[t]*/,
                    Round round, view<T, 2> kv /*[t,o]*/, view<T, 3> out /*[t,s,d]*/) {
  // contract
  const index_t tokens = h.extent(0), streams = h.extent(1), width = h.extent(2);
  expects_equal(w.wkv.extent(0), (streams + 1) * width, "engram: rows of wkv");
  expects_equal(w.wkv.extent(1), e.extent(1), "engram: columns of wkv against channels of the embedding");
  expects_equal(e.extent(0), tokens, "engram: embeddings against tokens");

  const tensor<T, 2> fused = detail::fused_weight(w);
  for (index_t t = 0; t < tokens; ++t) {
    // einsum: i, o i -> o
    for (index_t o = 0; o < w.wkv.extent(0); ++o)
      kv(t, o) = round(fold(e.extent(1), T(0), [&](index_t i) { return e(t, i) * w.wkv(o, i); }));
    const view<const T, 1> both = kv[t];
    gate_forward<T>(h[t], detail::keys_of(both, streams, width), detail::value_of(both, streams, width),
                    fused, eps, root_sign::copied, closed.data() && closed[t], out[t]);
  }
}

/// dh, de, dw += ...  kv: what the forward pass kept.
template <class T>
void engram_backward(view<const T, 3> dout /*[t,s,d]*/, view<const T, 3> h /*[t,s,d]*/,
                     view<const T, 2> e /*[t,i]*/, const engram_weights<const T>& w, T eps,
                     view<const std::uint8_t, 1> closed /*[t]*/, view<const T, 2> kv /*[t,o]*/,
                     view<T, 3> dh /*[t,s,d]*/, view<T, 2> de /*[t,i]*/, const engram_weights<T>& dw) {
  const index_t tokens = h.extent(0), streams = h.extent(1), width = h.extent(2), outputs = w.wkv.extent(0);
  const tensor<T, 2> fused = detail::fused_weight(w);
  tensor<T, 2> dfused(streams, width);
  tensor<T, 1> dkv(outputs);
  for (index_t t = 0; t < tokens; ++t) {
    std::fill_n(dkv.data(), outputs, T(0));
    gate_backward<T>(dout[t], h[t], detail::keys_of(kv[t], streams, width),
                     detail::value_of(kv[t], streams, width), fused, eps, root_sign::copied,
                     closed.data() && closed[t], dh[t], detail::keys_of(dkv.all(), streams, width),
                     detail::value_of(dkv.all(), streams, width), dfused);
    // einsum: o, o i -> i    and    o, i -> o i
    for (index_t o = 0; o < outputs; ++o)
      for (index_t i = 0; i < e.extent(1); ++i) {
        de(t, i) += dkv[o] * w.wkv(o, i);
        dw.wkv(o, i) += dkv[o] * e(t, i);
      }
  }
  for (index_t i = 0; i < fused.size(); ++i) {
    dw.q_weight.data()[i] += dfused.data()[i] * w.k_weight.data()[i];
    dw.k_weight.data()[i] += dfused.data()[i] * w.q_weight.data()[i];
  }
}

/// The embedding's gradient back to the rows it came from: dtable += ...
template <class T>
void add_to_rows(view<const T, 1> de /*[i]*/, view<const index_t, 1> rows /*[c]*/,
                 view<T, 2> dtable /*[r,d]*/) {
  const index_t width = dtable.extent(1);
  for (index_t c = 0; c < rows.extent(0); ++c)
    for (index_t d = 0; d < width; ++d) dtable(rows[c], d) += de[c * width + d];
}

}  // namespace dsv4::engram
