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

/// One sequence's part of a selection.
template <class A, class Mem = mem::host>
struct index_part {
  view<const A, 2, Mem> keys;         // [s, d] its entries up to this call
  view<A, 2, Mem> scores;             // [t, s]
  view<std::int32_t, 2, Mem> chosen;  // [t, k]
};

/// The queries and head weights of a flat batch of tokens.
template <class A, class Mem = mem::host>
struct index_queries {
  view<A, 3, Mem> q;        // [t, h, d]
  view<A, 2, Mem> weights;  // [t, h]
};

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
/// run(e, queries, segments, parts): index_scores for the queries of every sequence.
template <execution E>
struct index_scores_of_batch {
  static_assert(has_kernel<E>, "index_scores_of_batch: no kernel for this executor");
};
/// run(e, segments, ratio, parts): index_select for the scores of every sequence.
template <execution E>
struct index_select_of_batch {
  static_assert(has_kernel<E>, "index_select_of_batch: no kernel for this executor");
};
/// run(e, segments, ratio, chosen [sequences] of [t, s]): every closed entry in order, -1 where not yet visible.
template <execution E>
struct choose_all_visible {
  static_assert(has_kernel<E>, "choose_all_visible: no kernel for this executor");
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
  // Only visible entries can be chosen.  Where fewer than k are visible, -1 fills the end of the list.
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

template <host_execution E>
struct index_scores_of_batch<E> {
  template <class A>
  static void run(E& e, const index_queries<A>& queries, std::span<const segment> segments,
                  std::span<const index_part<A>> parts) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto own = [&](auto v) { return v.rows(segments[i].begin, segments[i].end); };
      index_scores<E>::run(e, view<const A, 3>(own(queries.q)), parts[i].keys,
                           view<const A, 2>(own(queries.weights)), parts[i].scores);
    }
  }
};

template <host_execution E>
struct index_select_of_batch<E> {
  template <class A>
  static void run(E& e, std::span<const segment> segments, index_t ratio,
                  std::span<const index_part<A>> parts) {
    for (std::size_t i = 0; i < parts.size(); ++i)
      index_select<E>::run(e, view<const A, 2>(parts[i].scores), segments[i].start, ratio, parts[i].chosen);
  }
};

template <host_execution E>
struct choose_all_visible<E> {
  static void run(E&, std::span<const segment> segments, index_t ratio,
                  std::span<const view<std::int32_t, 2>> chosen) {
    for (std::size_t i = 0; i < chosen.size(); ++i) of_sequence(segments[i].start, ratio, chosen[i]);
  }
  static void of_sequence(index_t start, index_t ratio, view<std::int32_t, 2> chosen /*[t,s]*/) {
    for (index_t t = 0; t < chosen.extent(0); ++t)
      for (index_t s = 0; s < chosen.extent(1); ++s)
        chosen(t, s) = s < (start + t + 1) / ratio ? static_cast<std::int32_t>(s) : -1;
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

/// Queries from the shared latent qr, weights from x.  Views live in the call's scratch.
template <numerics_policy P, execution E, observer Tap>
index_queries<act_t<P>, mem_of<E>> index_queries_of(const call_context<E, Tap>& call,
                                                    const product_input<P, E>& qr /*[t,qr]*/,
                                                    view<act_t<P>, 2, mem_of<E>> x /*[t,D]*/,
                                                    const basic_rotary_angles<mem_of<E>>& angles,
                                                    const indexer_weights<storage_of<E>>& w) {
  using A = act_t<P>;
  const auto& [e, scratch, host, c, tap] = call;
  const index_t t = x.extent(0), h = c.index_n_heads, d = c.index_head_dim;
  index_queries<A, mem_of<E>> r{take<A>(scratch, t, h, d), take<A>(scratch, t, h)};
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

/// The entries each query attends to: for every sequence [t, min(index_topk, entries)], -1 where empty.  The entries
/// up to this call are already in its memory.  Views live in the call's scratch, the list in its host scratch.
template <numerics_policy P, execution E, observer Tap>
std::span<const view<std::int32_t, 2, mem_of<E>>> select_entries(
    const call_context<E, Tap>& call, const layer_batch<P, E>& batch,
    const index_queries<act_t<P>, mem_of<E>>& queries) {
  using A = act_t<P>;
  using part = index_part<A, mem_of<E>>;
  const auto& [e, scratch, host, c, tap] = call;
  const auto chosen = take_list<view<std::int32_t, 2, mem_of<E>>>(host, batch.sequences());
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const segment& g = batch.segments[i];
    chosen[i] =
        take<std::int32_t>(scratch, g.tokens(), std::min(c.index_topk, (g.start + g.tokens()) / batch.ratio));
  }
  const typename call_context<E, Tap>::scope here(call);  // scores are needed no longer than this
  const auto parts = take_list<part>(host, batch.sequences());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const segment& g = batch.segments[i];
    const index_t s = (g.start + g.tokens()) / batch.ratio;
    parts[i] = {batch.states[i]->indexer.entries.all().rows(0, s), take<A>(scratch, g.tokens(), s),
                chosen[i]};
  }
  kernel::index_scores_of_batch<E>::run(e, queries, batch.segments, std::span<const part>(parts));
  tap.each(site::indexer_scores, parts, &part::scores);
  kernel::index_select_of_batch<E>::run(e, batch.segments, batch.ratio, std::span<const part>(parts));
  return chosen;
}

}  // namespace dsv4
