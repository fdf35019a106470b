// SPDX-License-Identifier: MIT
#pragma once
/// Read-out and loss, forward and backward: streams -> one vector -> norm -> vocabulary -> cross-entropy.
/// @paper{DSV4, section 2.1 (as DeepSeek-V3)}
/// axes     t token · n stream · d channel · v vocabulary
/// oracle   mhc/head.hpp (forward); golden/transformers/seed0/grads.safetensors
/// deviates none
///
///   loss = -log softmax(logits)[target]      dlogits = softmax - onehot(target)
/// The vocabulary is visited in pieces of tokens, so that logits [t, v] never exist as a whole.
#include <cmath>

#include "hyper_connection.hpp"

namespace dsv4::train {

/// Weights of a read-out (or their gradients): its own mix and norm, the vocabulary may be shared.
template <class T>
struct readout_parameters {
  hyper_parameters<T> hc_head;
  view<T, 1> norm;  // [d]
  view<T, 2> head;  // [v, d]
};

/// Tokens in a piece: 512 rows are enough for an efficient product, and with 4096 logits each they take 8 MB.
inline constexpr index_t readout_piece = 512;

/// Replaces the logits of one token by `scale` times their gradient.  @returns the token's loss
template <execution E, class T>
double cross_entropy(E& e, view<T, 1> logits /*[v]*/, std::int32_t target, T scale) {
  const auto at = [=](index_t v) { return logits[v]; };
  const T largest = fold(logits.size(), logits[0], at, [](T a, T b) { return a < b ? b : a; }),
          shifted = logits[target] - largest;
  for (T& z : logits) z -= largest;
  kernel::exponential<E>::run(e, logits.data(), logits.size());
  const T sum = fold(logits.size(), T(0), at), share = scale / sum;
  for (T& z : logits) z *= share;
  logits[target] -= scale;
  return std::log(double(sum)) - double(shifted);
}

/// Sum of the losses of the tokens whose target(t) is not -1.  With gradients: dh [t, n, d] and dw are added to,
/// each token's loss weighted by `scale`.
template <execution E, class T, class Target>
double readout_loss(E& e, workspace& scratch, const config& c, view<T, 3> h /*[t,n,d]*/,
                    const readout_parameters<const T>& w, Target target, T scale, view<T, 3> dh /*[t,n,d]*/,
                    const readout_parameters<T>* dw) {
  workspace::scope here(scratch);
  const index_t tokens = h.extent(0), n = h.extent(1), d = h.extent(2), vocabulary = w.head.extent(0);
  auto r = scratch.take<T>(tokens), y_r = scratch.take<T>(tokens);            // [t]
  auto mixes = scratch.take<T>(tokens, n), pre = scratch.take<T>(tokens, n);  // [t, n]
  auto y = scratch.take<T>(tokens, d), normed = scratch.take<T>(tokens, d);   // [t, d]
  hyper_mixes(e, c, h, w.hc_head.fn, r, mixes);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < n; ++j)
      pre(t, j) = hyper_pre(mixes(t, j), w.hc_head.scale[0], w.hc_head.base[j], T(c.hc_eps));
  collapse(e, pre, h, y);
  rms_norm(e, y, w.norm, c.rms_norm_eps, y_r, normed);

  auto dnormed = dw ? zeros<T>(e, scratch, tokens, d) : view<T, 2>{};  // [t, d]
  auto loss = scratch.take<double>(tokens);                            // [t]
  for (index_t from = 0; from < tokens; from += readout_piece) {
    workspace::scope piece(scratch);
    const index_t to = std::min(from + readout_piece, tokens);
    auto logits = scratch.take<T>(to - from, vocabulary);  // [t, v]
    project(e, normed.rows(from, to), w.head, logits);
    kernel::rows<E>::run(e, to - from, 1, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        const std::int32_t id = target(from + t);
        loss[from + t] = id < 0 ? 0 : cross_entropy<E, T>(e, logits[t], id, scale);
        if (id < 0) std::fill(logits[t].begin(), logits[t].end(), T(0));
      }
    });
    if (dw) project_backward(e, logits, normed.rows(from, to), w.head, dnormed.rows(from, to), dw->head);
  }
  double sum = 0;
  for (const double l : loss) sum += l;
  if (!dw) return sum;

  auto dy = zeros<T>(e, scratch, tokens, d);  // [t, d]
  auto dmixes = scratch.take<T>(tokens, n);   // [t, n]
  rms_norm_backward(e, dnormed, y, w.norm, y_r, dy, dw->norm);
  collapse_backward(e, dy, h, pre, dh, dmixes);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < n; ++j) dmixes(t, j) *= sigmoid_slope(pre(t, j) - T(c.hc_eps));
  affine_backward(e, dmixes, mixes, w.hc_head.scale, dw->hc_head.scale, dw->hc_head.base,
                  [](index_t) { return 0; });
  hyper_mixes_backward(e, dmixes, mixes, r, h, w.hc_head.fn, dh, dw->hc_head.fn);
  return sum;
}

}  // namespace dsv4::train
