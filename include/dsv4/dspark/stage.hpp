// SPDX-License-Identifier: MIT
#pragma once
/// One stage of a drafter: a block of the model whose attention sees a ring of context and, both ways, its own slots.
/// source   DSpark; as released with DeepSeek-V4-Flash-DSpark and -V4.1
/// axes     k slot · n = i = j stream · d channel · m packed mixes · h head · c channel of a head · s key · e expert
/// oracle   golden/dspark: v4_draft, v41_train
///
/// The specification of the stage, in one arithmetic type and for one block.  The formulas are those of the model's blocks
/// (mhc/, attn/, moe/); what differs: no causal order among the slots, no compressed attention, and (V4.1) mHC in one pass.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../core/contract.hpp"
#include "../core/fold.hpp"
#include "../core/tensor.hpp"
#include "../mhc/sinkhorn.hpp"
#include "../num/formulas.hpp"
#include "weights.hpp"

namespace dsv4::dspark {

/// y = x / rms(x) w; y may be x.
template <class T>
void normed(view<const T, 1> x /*[d]*/, view<const T, 1> w /*[d]*/, double eps, view<T, 1> y /*[d]*/) {
  const index_t n = x.extent(0);
  const T r = inverse_rms(fold(n, T(0), [&](index_t d) { return x[d] * x[d]; }), T(n), T(eps));
  for (index_t d = 0; d < n; ++d) y[d] = x[d] * r * w[d];
}

/// Turns neighbouring pairs of the last `rotary` channels of a head; backwards for the attention's output.
template <class T>
void turn(view<T, 1> x /*[c]*/, index_t position, const drafter_settings& s, bool backwards) {
  const index_t first = x.extent(0) - s.rotary;
  for (index_t i = 0; i < s.rotary; i += 2) {
    const double frequency = std::pow(s.rope_theta, -double(i) / double(s.rotary)),
                 angle = (backwards ? -1 : 1) * double(position) * frequency;
    const T cosine = T(std::cos(angle)), sine = T(std::sin(angle)), a = x[first + i], b = x[first + i + 1];
    x[first + i] = a * cosine - b * sine;
    x[first + i + 1] = a * sine + b * cosine;
  }
}

/// Keys and values (one, shared by all heads) of a state at a position.  `store` rounds them as the cache does.
template <class T, class Store>
void key_value(const stage_weights<T>& w, const drafter_settings& s, view<const T, 1> x /*[d]*/,
               index_t position, Store store, view<T, 1> kv /*[c]*/) {
  tensor<T, 1> raw(kv.extent(0));
  detail::product<T>(x, w.wkv, raw);
  normed<T>(raw, w.kv_norm, s.norm_eps, kv);
  turn(kv, position, s, false);
  store(kv);
}

namespace detail {

/// How a site of mHC reads, writes and carries over.
template <class T>
struct site_mix {
  tensor<T, 2> pre, post;  // [k,n]
  tensor<T, 3> comb;       // [k,n,n]
};

/// Packed mixes of a token's streams, before scale and base.
template <class T>
void raw_mixes(view<const T, 2> x /*[n,d]*/, view<const T, 2> fn /*[m, n d]*/, double eps,
               view<T, 1> mixes /*[m]*/) {
  const view<const T, 1> flat(x.data(), x.size());
  const T r = inverse_rms(fold(flat.size(), T(0), [&](index_t c) { return flat[c] * flat[c]; }),
                          T(flat.size()), T(eps));
  product<T>(flat, fn, mixes);
  for (T& m : mixes) m *= r;
}

template <class T>
site_mix<T> mix_of(view<const T, 3> x /*[k,n,d]*/, const mixing_weights<T>& w, const drafter_settings& s) {
  const index_t slots = x.extent(0), n = x.extent(1);
  site_mix<T> mix{tensor<T, 2>(slots, n), tensor<T, 2>(slots, n), tensor<T, 3>(slots, n, n)};
  tensor<T, 1> m(w.fn.extent(0));
  for (index_t k = 0; k < slots; ++k) {
    raw_mixes<T>(x[k], w.fn, s.norm_eps, m);
    for (index_t j = 0; j < n; ++j) {
      mix.pre(k, j) = hyper_pre(m[j], w.scale[0], w.base[j], T(s.hc_eps));
      mix.post(k, j) = hyper_post(m[n + j], w.scale[1], w.base[n + j]);
    }
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < n; ++j) {
        const index_t at = 2 * n + n * i + j;
        mix.comb(k, i, j) = hyper_logit(m[at], w.scale[2], w.base[at]);
      }
    sinkhorn<T>(mix.comb[k], s.sinkhorn_iterations, T(s.hc_eps));
  }
  return mix;
}

// einsum: k n, k n d -> k d
template <class T>
tensor<T, 2> collapsed(view<const T, 3> x /*[k,n,d]*/, view<const T, 2> pre /*[k,n]*/) {
  tensor<T, 2> y(x.extent(0), x.extent(2));
  for (index_t k = 0; k < x.extent(0); ++k)
    for (index_t d = 0; d < x.extent(2); ++d)
      for (index_t j = 0; j < x.extent(1); ++j) y(k, d) += pre(k, j) * x(k, j, d);
  return y;
}

// einsum: k j, k d -> k j d  plus  k i j, k i d -> k j d
template <class T>
tensor<T, 3> expanded(view<const T, 2> out /*[k,d]*/, view<const T, 3> x /*[k,n,d]*/,
                      const site_mix<T>& mix) {
  tensor<T, 3> y(x.extent(0), x.extent(1), x.extent(2));
  for (index_t k = 0; k < x.extent(0); ++k)
    for (index_t j = 0; j < x.extent(1); ++j)
      for (index_t d = 0; d < x.extent(2); ++d) {
        y(k, j, d) = mix.post(k, j) * out(k, d);
        for (index_t i = 0; i < x.extent(1); ++i) y(k, j, d) += mix.comb(k, i, j) * x(k, i, d);
      }
  return y;
}

/// All slots see all rows of kv: the context's and the block's own.
template <class T>
tensor<T, 2> attended(const stage_weights<T>& w, const drafter_settings& s, view<const T, 2> y /*[k,d]*/,
                      view<const T, 2> kv /*[s,c]*/, index_t first_position) {
  const index_t slots = y.extent(0), keys = kv.extent(0), channels = kv.extent(1),
                heads = w.attn_sink.extent(0), per_group = w.wo_a.extent(0) / s.groups;
  tensor<T, 2> out(slots, y.extent(1));
  tensor<T, 1> a(w.wq_a.extent(0)), low(w.wq_a.extent(0)), weight(keys), joined(w.wo_a.extent(0));
  tensor<T, 2> q(heads, channels), o(heads, channels);
  for (index_t k = 0; k < slots; ++k) {
    product<T>(y[k], w.wq_a, a);
    normed<T>(a, w.q_norm, s.norm_eps, low);
    product<T>(low, w.wq_b, q.all().reshape(heads * channels));
    for (index_t h = 0; h < heads; ++h) {
      const view<T, 1> qh = q[h];
      if (s.unit_queries) {
        const T r = inverse_rms(fold(channels, T(0), [&](index_t c) { return qh[c] * qh[c]; }), T(channels),
                                T(s.norm_eps));
        for (T& c : qh) c *= r;
      }
      turn(qh, first_position + k, s, false);
      // The sink takes part in the sum and gives nothing.
      T largest = w.attn_sink[h];
      for (index_t i = 0; i < keys; ++i) {
        weight[i] =
            fold(channels, T(0), [&](index_t c) { return qh[c] * kv(i, c); }) / std::sqrt(T(channels));
        largest = std::max(largest, weight[i]);
      }
      T sum = std::exp(w.attn_sink[h] - largest);
      for (T& x : weight.all()) sum += x = std::exp(x - largest);
      for (index_t c = 0; c < channels; ++c)
        o(h, c) = fold(keys, T(0), [&](index_t i) { return weight[i] * kv(i, c); }) / sum;
      turn(o[h], first_position + k, s, true);
    }
    const index_t inner = heads * channels / s.groups;
    for (index_t g = 0; g < s.groups; ++g)
      product<T>(view<const T, 1>(o.data() + g * inner, inner),
                 w.wo_a.rows(g * per_group, (g + 1) * per_group),
                 view<T, 1>(joined.data() + g * per_group, per_group));
    product<T>(joined, w.wo_b, out[k]);
  }
  return out;
}

/// y += weight expert(x).
template <class T>
void add_expert(const draft_expert<T>& w, view<const T, 1> x /*[d]*/, T weight, T limit,
                view<T, 1> y /*[d]*/) {
  tensor<T, 1> a(w.w1.extent(0)), u(w.w3.extent(0)), out(y.extent(0));
  product<T>(x, w.w1, a);
  product<T>(x, w.w3, u);
  for (index_t i = 0; i < a.extent(0); ++i) a[i] = swiglu_value(a[i], u[i], limit, T(1));
  product<T>(a, w.w2, out);
  for (index_t d = 0; d < y.extent(0); ++d) y[d] += weight * out[d];
}

template <class T>
void feed_forward(const stage_weights<T>& w, const drafter_settings& s, view<const T, 1> x /*[d]*/,
                  view<T, 1> y /*[d]*/) {
  const index_t experts = w.gate.extent(0);
  tensor<T, 1> affinity(experts);
  product<T>(x, w.gate, affinity);
  for (T& a : affinity.all()) a = gate_affinity(a);
  // The bias moves the choice, not the weights.
  std::vector<index_t> order(usize(experts));
  std::iota(order.begin(), order.end(), index_t{0});
  std::stable_sort(order.begin(), order.end(), [&](index_t i, index_t j) {
    return affinity[i] + w.gate_bias[i] > affinity[j] + w.gate_bias[j];
  });
  order.resize(usize(s.experts_per_token));
  T sum = 0;
  for (const index_t e : order) sum += affinity[e];
  const T limit = T(s.swiglu_limit);
  add_expert<T>(w.shared, x, T(1), limit, y);
  for (const index_t e : order)
    add_expert<T>(w.experts[usize(e)], x, gate_weight(affinity[e], sum, T(s.route_scale)), limit, y);
}

}  // namespace detail

/// The streams of a block and (V4.1) the weights that the next site reads them with.
template <class T>
struct draft_streams {
  tensor<T, 3> x;    // [k,n,d]
  tensor<T, 2> pre;  // [k,n]
};
/// What a stage's halves gave, to be looked at.
template <class T>
struct stage_outputs {
  tensor<T, 2> attn, ffn;  // [k,d]
};

/// context [s,c]: keys and values that all slots see besides their own, in any order.  The slots stand at first_position
/// and after it; their keys and values are not kept.
template <class T, class Store>
stage_outputs<T> run_stage(const stage_weights<T>& w, const drafter_settings& s,
                           view<const T, 2> context /*[s,c]*/, index_t first_position, Store store,
                           draft_streams<T>& h) {
  const index_t slots = h.x.extent(0), width = h.x.extent(2), seen = context.extent(0);
  stage_outputs<T> outputs{tensor<T, 2>(), tensor<T, 2>(slots, width)};
  // Reads the streams for one half block, and leaves in h.pre what the next site may read with.
  const auto read = [&](const detail::site_mix<T>& mix, view<const T, 1> norm) {
    tensor<T, 2> y = detail::collapsed<T>(h.x, s.reads_with_the_site_before ? h.pre : mix.pre);
    h.pre = mix.pre;
    for (index_t k = 0; k < slots; ++k) normed<T>(y[k], norm, s.norm_eps, y[k]);
    return y;
  };

  const detail::site_mix<T> attn = detail::mix_of<T>(h.x, w.hc_attn, s);
  const tensor<T, 2> y = read(attn, w.attn_norm);
  tensor<T, 2> kv(seen + slots, w.wkv.extent(0));
  if (seen > 0) std::copy_n(context.data(), context.size(), kv.data());
  for (index_t k = 0; k < slots; ++k) key_value<T>(w, s, y[k], first_position + k, store, kv[seen + k]);
  outputs.attn = detail::attended<T>(w, s, y, kv, first_position);
  h.x = detail::expanded<T>(outputs.attn, h.x, attn);

  const detail::site_mix<T> ffn = detail::mix_of<T>(h.x, w.hc_ffn, s);
  const tensor<T, 2> z = read(ffn, w.ffn_norm);
  for (index_t k = 0; k < slots; ++k) detail::feed_forward<T>(w, s, z[k], outputs.ffn[k]);
  h.x = detail::expanded<T>(outputs.ffn, h.x, ffn);
  return outputs;
}

}  // namespace dsv4::dspark
