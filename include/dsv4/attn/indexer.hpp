// SPDX-License-Identifier: MIT
#pragma once
/// Lightning indexer: which compressed entries a query of a CSA layer attends to.
/// @paper{DSV4, Eq. (14)-(17)}
/// axes     t query token · h indexer head · d indexer channel · s compressed entry · k choice
/// oracle   model.py, Indexer.forward
/// deviates ties are decided (lower index), see op/top_k.hpp
///
/// The indexer has a compressor of its own; its keys and queries are Hadamard-rotated FP4.
/// I[t, s] = sum_h w[t, h] relu(q[t, h] . k[s]); every step is stored as an activation.
/// @post (1) a query never chooses an entry that closes after it: s < (t + 1) / ratio
///       (2) choices are listed by falling score; excluded ones are -1 and come last
#include <limits>

#include "../op/top_k.hpp"
#include "compressor.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, q [t, h, d], keys [s, d], weights [t, h], scores [t, s]).
template <execution E>
struct index_scores {
  static_assert(has_kernel<E>, "index_scores: no kernel for this executor");
};
/// run(e, scores [t, s], start, ratio, chosen [t, k]).
template <execution E>
struct index_select {
  static_assert(has_kernel<E>, "index_select: no kernel for this executor");
};
/// run(e, x [t, h], factor), in place: x * factor, one store.
template <execution E>
struct scale_stored {
  static_assert(has_kernel<E>, "scale_stored: no kernel for this executor");
};

template <>
struct index_scores<exec::ref> {
  // einsum: t h d, s d -> t h s; relu; t h s, t h -> t s
  template <class A>
  static void run(exec::ref&, view<const A, 3> q, view<const A, 2> keys, view<const A, 2> weights,
                  view<A, 2> scores) {
    for (index_t t = 0; t < scores.extent(0); ++t)
      for (index_t s = 0; s < scores.extent(1); ++s) {
        double score = 0;
        for (index_t h = 0; h < q.extent(1); ++h) {
          double dot = 0;
          for (index_t d = 0; d < q.extent(2); ++d)
            dot += widen<double>(q(t, h, d)) * widen<double>(keys(s, d));
          const double relu = std::max(rounded<A>(dot), 0.0);
          score += rounded<A>(relu * widen<double>(weights(t, h)));  // Eq. (16)
        }
        scores(t, s) = store<A>(score);
      }
  }
};

template <>
struct index_select<exec::ref> {
  // Visible entries compete; the others fill the end of the list as -1.
  template <class A>
  static void run(exec::ref&, view<const A, 2> scores, index_t start, index_t ratio,
                  view<std::int32_t, 2> chosen) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(scores.extent(1)));
    for (index_t t = 0; t < scores.extent(0); ++t)
      select(scores[t], (start + t + 1) / ratio, order, chosen[t]);
  }

  template <class A>
  static void select(view<const A, 1> scores, index_t closed, std::span<std::int32_t> order,
                     view<std::int32_t, 1> chosen) {
    const auto visible = static_cast<std::size_t>(std::min(closed, scores.extent(0)));
    std::fill(chosen.begin(), chosen.end(), -1);
    // Eq. (17)
    top_k(std::span<const A>(scores.data(), visible), order.first(visible),
          std::span(chosen.data(), std::min(visible, static_cast<std::size_t>(chosen.extent(0)))));
  }
};

template <>
struct scale_stored<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<A, 2> x, double factor) {
    for (A& v : x) v = store<A>(widen<double>(v) * factor);
  }
};
}  // namespace kernel

/// The queries and head weights of a flat batch of tokens, before sequences part.
template <class A>
struct index_queries {
  view<A, 3> q;        // [t, h, d]
  view<A, 2> weights;  // [t, h]
};

/// Queries from the shared latent qr, weights from x.
template <numerics_policy P, execution E, observer Tap>
index_queries<act_t<P>> index_queries_of(E& e, workspace& scratch, const tapper<Tap>& tap, const config& c,
                                         const product_input<P, E>& qr /*[t,qr]*/,
                                         view<act_t<P>, 2> x /*[t,D]*/, const rotary_angles& angles,
                                         const indexer_weights<>& w) {
  using A = act_t<P>;
  const index_t t = x.extent(0), h = c.index_n_heads, d = c.index_head_dim;
  index_queries<A> r{scratch.take<A>(t, h, d), scratch.take<A>(t, h)};
  qr.times(e, w.wq_b, r.q.reshape(t, h * d));  // Eq. (14)
  rope(e, r.q, angles);
  if constexpr (P::quantised) hadamard(e, r.q.reshape(t * h, d));
  tap.rows(site::indexer_q_had, r.q);
  if constexpr (P::quantised) fp4_act_quant(e, r.q.reshape(t * h, d));
  tap.rows(site::indexer_q, r.q);

  // w = (W_w x stored) * d^-1/2 h^-1/2, the constant itself not rounded.
  linear(e, x, w.weights_proj, r.weights);  // Eq. (15)
  kernel::scale_stored<E>::run(e, r.weights, 1 / std::sqrt(double(d)) * (1 / std::sqrt(double(h))));
  tap.rows(site::indexer_weights, r.weights);
  return r;
}

/// The entries each query of one sequence attends to, [t, min(index_topk, entries)], -1 where empty.
/// `queries` are the rows of this sequence; its entries up to this call are already in `keys`.
template <execution E, class A, observer Tap>
view<std::int32_t, 2> select_entries(E& e, workspace& scratch, const tapper<Tap>& tap, index_t sequence,
                                     const config& c, const index_queries<A>& queries,
                                     view<const A, 2> keys /*[s,d]*/, index_t start) {
  const index_t t = queries.q.extent(0), s = keys.extent(0);
  auto chosen = scratch.take<std::int32_t>(t, std::min(c.index_topk, s));
  auto scores = scratch.take<A>(t, s);
  kernel::index_scores<E>::run(e, view<const A, 3>(queries.q), keys, view<const A, 2>(queries.weights),
                               scores);
  tap.one(site::indexer_scores, sequence, scores);
  kernel::index_select<E>::run(e, view<const A, 2>(scores), start, csa_ratio, chosen);
  return chosen;
}

}  // namespace dsv4
