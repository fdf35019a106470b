// SPDX-License-Identifier: MIT
#pragma once
/// Core attention, forward and backward: one softmax over the window, the chosen entries and the sink.
/// @paper{DSV4, Eq. (19), (26), (27)}
/// axes     t query · h head · d channel of a head · p key of the window · s compressed entry
/// oracle   attn/sparse_attention.hpp (forward); finite differences; golden/transformers/seed0/grads.safetensors
/// deviates none
///
///   z = q.k hd^-1/2    P = exp(z) / (sum exp(z) + exp(sink))    o = sum P k          (keys are values)
/// and back, delta = <do, o>:
///   dz = P (<do, k> - delta)    dq = hd^-1/2 sum dz k    dk = hd^-1/2 sum dz q + sum P do    dsink = -P_sink delta
/// The softmax is kept as its logarithm of the denominator, lse = log(sum exp(z) + exp(sink)).
#include <cmath>

#include "product.hpp"

namespace dsv4::train {

/// One sample: its keys, and which entries each query attends to.
template <class T>
struct attention_keys {
  index_t window;                      // W: query t sees the keys of tokens max(0, t-W+1) … t
  view<T, 2> kv;                       // [t, d]
  view<T, 2> entries;                  // [s, d]
  view<const std::uint8_t, 2> chosen;  // [t, s] 1: query t attends to entry s
};

}  // namespace dsv4::train

namespace dsv4::kernel {

/// forward(q, keys, sink, o, lse): one sample.
/// backward(q, keys, sink, lse, do, delta, dq (set), dkeys (+=), dsink (+=)): one sample; dkeys.chosen is unused.
/// mass(q, entries, chosen, lse, out [t, s]): sum over heads of P on the chosen entries, 0 elsewhere.
/// They run on one thread: samples are run side by side.
template <execution E>
struct attend {
  static_assert(has_kernel<E>, "attend: no kernel for this executor");
};

template <>
struct attend<exec::ref> {
  template <class T>
  using keys = train::attention_keys<T>;

  /// f(key row, its gradient's row or null) for every key of query t.
  template <class T, class F>
  static void for_keys(const keys<T>& k, const keys<T>* dk, index_t t, F f) {
    for (index_t p = std::max(index_t{0}, t - k.window + 1); p <= t; ++p)
      f(k.kv[p].data(), dk ? dk->kv[p].data() : nullptr);
    for (index_t s = 0; s < k.entries.extent(0); ++s)
      if (k.chosen(t, s)) f(k.entries[s].data(), dk ? dk->entries[s].data() : nullptr);
  }
  template <class T>
  static T score(const T* q, const T* k, index_t n) {
    T sum = 0;
    for (index_t d = 0; d < n; ++d) sum += q[d] * k[d];
    return sum / std::sqrt(T(n));  // hd^-1/2
  }

  // einsum: h d, k d -> h k; softmax over k; h k, k d -> h d   (for each t)
  template <class T>
  static void forward(view<const T, 3> q, const keys<T>& k, view<const T, 1> sink, view<T, 3> o,
                      view<T, 2> lse) {
    const index_t n = q.extent(2);
    for (index_t t = 0; t < q.extent(0); ++t)
      for (index_t h = 0; h < q.extent(1); ++h) {
        const T* qt = q[t][h].data();
        T* out = o[t][h].data();
        T largest = sink[h];
        for_keys<T>(k, nullptr, t, [&](const T* key, T*) { largest = std::max(largest, score(qt, key, n)); });
        T sum = std::exp(sink[h] - largest);  // Eq. (27)
        std::fill(out, out + n, T(0));
        for_keys<T>(k, nullptr, t, [&](const T* key, T*) {
          const T p = std::exp(score(qt, key, n) - largest);  // Eq. (27)
          sum += p;
          for (index_t d = 0; d < n; ++d) out[d] += p * key[d];  // Eq. (19), (26)
        });
        for (index_t d = 0; d < n; ++d) out[d] /= sum;
        lse(t, h) = largest + std::log(sum);
      }
  }

  template <class T>
  static void backward(view<const T, 3> q, const keys<T>& k, view<const T, 1> sink, view<const T, 2> lse,
                       view<const T, 3> dout, view<const T, 2> delta, view<T, 3> dq, const keys<T>& dk,
                       view<T, 1> dsink) {
    const index_t n = q.extent(2);
    const T scale = 1 / std::sqrt(T(n));
    for (index_t t = 0; t < q.extent(0); ++t)
      for (index_t h = 0; h < q.extent(1); ++h) {
        const T *qt = q[t][h].data(), *g = dout[t][h].data();
        T* to = dq[t][h].data();
        std::fill(to, to + n, T(0));
        for_keys<T>(k, &dk, t, [&](const T* key, T* dkey) {
          const T p = std::exp(score(qt, key, n) - lse(t, h));
          T along = 0;  // <do, k>
          for (index_t d = 0; d < n; ++d) along += g[d] * key[d];
          const T dz = p * (along - delta(t, h));
          for (index_t d = 0; d < n; ++d) to[d] += scale * dz * key[d];
          for (index_t d = 0; d < n; ++d) dkey[d] += scale * dz * qt[d] + p * g[d];
        });
        dsink[h] -= std::exp(sink[h] - lse(t, h)) * delta(t, h);
      }
  }

  template <class T>
  static void mass(view<const T, 3> q, view<const T, 2> entries, view<const std::uint8_t, 2> chosen,
                   view<const T, 2> lse, view<T, 2> out) {
    for (index_t t = 0; t < q.extent(0); ++t)
      for (index_t s = 0; s < entries.extent(0); ++s) {
        out(t, s) = 0;
        if (chosen(t, s))
          for (index_t h = 0; h < q.extent(1); ++h)
            out(t, s) += std::exp(score(q[t][h].data(), entries[s].data(), q.extent(2)) - lse(t, h));
      }
  }
};

}  // namespace dsv4::kernel
