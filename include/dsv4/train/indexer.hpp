// SPDX-License-Identifier: MIT
#pragma once
/// Lightning indexer in training: its choice, and its own objective.
/// @paper{DSV4, Eq. (14)-(17); DeepSeek-V3.2, section 2.1: the KL objective}
/// axes     t query · h indexer head · d indexer channel · s compressed entry
/// oracle   attn/indexer.hpp (forward); finite differences
/// deviates the teacher is the joint softmax (window, entries and sink) restricted to the entries: V4 does not say
///
///   I_ts = sum_h w_th relu(q_th . K_s)          the top k visible entries are attended to
/// A choice has no gradient, so the indexer learns to predict where the attention looks:
///   teacher   p_ts = sum_h P_hts, divided by its sum over the set      (detached)
///   L         = mean over queries of KL(p_t || softmax over the set of I_t)
///   dI_ts     = (softmax(I_t)_s - p_ts) / queries
/// The set is every visible entry in the warm-up stage, the chosen ones later.  Its inputs x and qr are detached:
/// only the indexer's own weights learn from L, and they from nothing else.
#include <span>
#include <vector>

#include "../op/act_quant.hpp"
#include "../op/hadamard.hpp"
#include "../op/top_k.hpp"
#include "compressor.hpp"

namespace dsv4::train {

template <class T>
struct indexer_saved {
  view<T, 3> q;        // [t, h, d]
  view<T, 2> weights;  // [t, h]
  compressor_saved<T> keys;

  static indexer_saved take(workspace& w, const config& c, index_t tokens, index_t entries) {
    const index_t halves = 2;  // CSA: an entry's own block and the one before
    return {w.take<T>(tokens, c.index_n_heads, c.index_head_dim), w.take<T>(tokens, c.index_n_heads),
            compressor_saved<T>::take(w, tokens, entries, halves * c.index_head_dim, c.index_head_dim)};
  }
};

/// The constant of the released code: w_th = (W_w x) d^-1/2 h^-1/2.
inline double index_weight_scale(const config& c) {
  return 1 / std::sqrt(double(c.index_head_dim) * double(c.index_n_heads));
}

/// Queries, head weights and keys.  `quantise`: q and K through Hadamard and FP4, as the released code stores them;
/// the gradient passes straight through the rounding.
template <execution E, class T>
void index_forward(E& e, const config& c, const entry_map& map, const std::vector<index_t>& position,
                   view<T, 2> x /*[t,D]*/, view<T, 2> qr /*[t,qr]*/, const indexer_parameters<const T>& w,
                   const rotary_table& rotary, bool quantise, const indexer_saved<T>& s) {
  const index_t tokens = x.extent(0), width = c.index_n_heads * c.index_head_dim;
  project(e, qr, w.wq_b, s.q.reshape(tokens, width));  // Eq. (14)
  rotate(e, s.q, rotary, [&](index_t t) { return position[usize(t)]; }, rotation::forward);
  project(e, x, w.weights_proj, s.weights);  // Eq. (15)
  for (T& v : s.weights) v *= T(index_weight_scale(c));
  compress(e, c, map, position, x, w.compressor, rotary, s.keys);
  if (quantise) {
    exec::ref plain;
    for (const view<T, 2> v : {s.q.reshape(tokens * c.index_n_heads, c.index_head_dim), s.keys.entries}) {
      hadamard(plain, v);
      fp4_act_quant(plain, v);
    }
  }
}

/// How many queries have their products with the keys computed together.
inline constexpr index_t index_tile = 32;

/// I_ts of one query from its products q.K.
// einsum: h, h s -> s; of relu
template <class T>
void index_scores(view<const T, 2> products /*[h,s]*/, view<const T, 1> weights /*[h]*/,
                  view<T, 1> scores /*[s]*/) {
  std::fill(scores.begin(), scores.end(), T(0));
  for (index_t h = 0; h < products.extent(0); ++h)
    for (index_t s = 0; s < scores.extent(0); ++s)
      scores[s] += weights[h] * std::max(products(h, s), T(0));  // Eq. (16)
}

/// Calls f(t, visible, products [h, s], scores [s]) for every query of a sample that sees entries.  After each tile of
/// queries [from, to) it calls g(from, to, keys [s, d]) with the keys that any of them sees.
// einsum: t h d, s d -> t h s
template <execution E, class T, class F, class G>
void index_tiles(E& e, view<const T, 3> q /*[t,h,d]*/, view<const T, 2> weights /*[t,h]*/,
                 view<const T, 2> keys /*[s,d]*/, F f, G g) {
  const index_t heads = q.extent(1);
  for (index_t from = 0; from < q.extent(0); from += index_tile) {
    const index_t to = std::min(from + index_tile, q.extent(0)),
                  count = std::min(visible_entries(to - 1, csa_ratio), keys.extent(0));
    if (count == 0) continue;
    workspace::scope here(thread_scratch());
    auto products = thread_scratch().take<T>(to - from, heads, count);  // [t, h, s]
    auto scores = thread_scratch().take<T>(count);                      // [s]
    kernel::products<E>::forward(e, q.rows(from, to).reshape((to - from) * heads, q.extent(2)),
                                 keys.rows(0, count), products.reshape((to - from) * heads, count));
    for (index_t t = from; t < to; ++t) {
      const index_t visible = std::min(visible_entries(t, csa_ratio), count);
      if (visible == 0) continue;
      index_scores<T>(products[t - from], weights[t], scores);
      f(t, visible, products[t - from], scores);
    }
    g(from, to, keys.rows(0, count));
  }
}

/// chosen [t, s] of one sample: 1 for the top k of the visible entries, ties to the lower index.
template <execution E, class T>
void index_choose(E& e, const config& c, view<const T, 3> q /*[t,h,d]*/, view<const T, 2> weights /*[t,h]*/,
                  view<const T, 2> keys /*[s,d]*/, view<std::uint8_t, 2> chosen /*[t,s]*/) {
  workspace& scratch = thread_scratch();
  workspace::scope here(scratch);
  auto order = scratch.take<std::int32_t>(keys.extent(0)), best = scratch.take<std::int32_t>(keys.extent(0));
  std::fill(chosen.begin(), chosen.end(), std::uint8_t{0});
  const auto choose = [&](index_t t, index_t visible, view<T, 2>, view<T, 1> scores) {
    const index_t k = std::min(visible, c.index_topk);
    if (visible == k) {
      std::fill_n(chosen[t].data(), k, std::uint8_t{1});
      return;
    }
    // Eq. (17)
    top_k(std::span<const T>(scores.data(), usize(visible)), std::span(order.data(), usize(visible)),
          std::span(best.data(), usize(k)));
    for (index_t j = 0; j < k; ++j) chosen(t, best[j]) = 1;
  };
  index_tiles<E, T>(e, q, weights, keys, choose, [](index_t, index_t, view<const T, 2>) {});
}

/// The objective of one sample.  teacher [t, s]: sum over heads of P, on the set; queries without one do not count.
/// Adds `scale` times its gradient to dq, dweights and dkeys (an empty dq: no gradients).  @returns the sum of the KLs
/// over queries.
template <execution E, class T>
double index_objective(E& e, view<const T, 3> q /*[t,h,d]*/, view<const T, 2> weights /*[t,h]*/,
                       view<const T, 2> keys /*[s,d]*/, view<const std::uint8_t, 2> set /*[t,s]*/,
                       view<const T, 2> teacher /*[t,s]*/, T scale, view<T, 3> dq /*[t,h,d]*/,
                       view<T, 2> dweights /*[t,h]*/, view<T, 2> dkeys /*[s,d]*/) {
  workspace& scratch = thread_scratch();
  workspace::scope here(scratch);
  const index_t heads = q.extent(1), d = q.extent(2), entries = keys.extent(0);
  auto dproducts = scratch.take<T>(index_tile * heads * entries);  // [t, h, s] of one tile, its s
  double total = 0;
  const auto query = [&](index_t t, index_t visible, view<T, 2> products /*[h,s]*/,
                         view<T, 1> scores /*[s]*/) {
    const index_t count = scores.extent(0);
    T* const back = dproducts.data() + t % index_tile * heads * count;  // [h, s]
    T mass = 0, largest = -INFINITY, sum = 0;
    for (index_t s = 0; s < visible; ++s)
      if (set(t, s)) {
        mass += teacher(t, s);
        largest = std::max(largest, scores[s]);
      }
    if (!(mass > 0)) return;  // the attention gave these entries nothing, so there is nothing to learn
    for (index_t s = 0; s < visible; ++s)
      if (set(t, s)) sum += std::exp(scores[s] - largest);
    for (index_t s = 0; s < visible; ++s) {
      if (!set(t, s)) continue;
      const T p = teacher(t, s) / mass, log_share = scores[s] - largest - std::log(sum);
      if (p > 0) total += double(p) * (std::log(double(p)) - double(log_share));
      if (!dq.data()) continue;
      const T g = scale * (std::exp(log_share) - p);  // dI
      for (index_t h = 0; h < heads; ++h) {
        if (!(products(h, s) > 0)) continue;  // relu
        dweights(t, h) += g * products(h, s);
        back[h * count + s] = g * weights(t, h);
      }
    }
  };
  // Back through the products of a tile, once all its queries have added their gradients.
  std::fill(dproducts.begin(), dproducts.end(), T(0));
  const auto tile = [&](index_t from, index_t to, view<const T, 2> seen /*[s,d]*/) {
    if (!dq.data()) return;
    const index_t rows = (to - from) * heads, count = seen.extent(0);
    const view<T, 2> dp(dproducts.data(), rows, count);  // [t h, s]
    kernel::products<E>::backward(e, view<const T, 2>(dp), q.rows(from, to).reshape(rows, d), seen,
                                  dq.rows(from, to).reshape(rows, d), dkeys.rows(0, count));
    std::fill(dp.begin(), dp.end(), T(0));
  };
  index_tiles<E, T>(e, q, weights, keys, query, tile);
  return total;
}

/// How many queries of a sample of `length` tokens see an entry: those from the end of the first block on.
inline index_t index_queries(index_t length) { return std::max(index_t{0}, length - (csa_ratio - 1)); }

/// From dq, dweights and dkeys (overwritten) to the indexer's weights.
template <execution E, class T>
void index_backward(E& e, workspace& scratch, const config& c, const entry_map& map,
                    const std::vector<index_t>& position, view<T, 2> x /*[t,D]*/, view<T, 2> qr /*[t,qr]*/,
                    const indexer_parameters<const T>& w, const rotary_table& rotary, bool quantise,
                    const indexer_saved<T>& s, view<T, 3> dq /*[t,h,d]*/, view<T, 2> dweights /*[t,h]*/,
                    view<T, 2> dkeys /*[s,d]*/, const indexer_parameters<T>& dw) {
  const index_t tokens = x.extent(0), width = c.index_n_heads * c.index_head_dim;
  if (quantise) {  // Hadamard is its own transpose
    exec::ref plain;
    hadamard(plain, dq.reshape(tokens * c.index_n_heads, c.index_head_dim));
    hadamard(plain, dkeys);
  }
  compress_backward(e, scratch, map, position, dkeys, x, w.compressor, rotary, s.keys, view<T, 2>{},
                    dw.compressor);
  for (T& v : dweights) v *= T(index_weight_scale(c));
  project_backward(e, dweights, x, w.weights_proj, view<T, 2>{}, dw.weights_proj);
  rotate(e, dq, rotary, [&](index_t t) { return position[usize(t)]; }, rotation::inverse);
  project_backward(e, dq.reshape(tokens, width), qr, w.wq_b, view<T, 2>{}, dw.wq_b);
}

}  // namespace dsv4::train
