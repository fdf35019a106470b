// SPDX-License-Identifier: MIT
#pragma once
/// Routing: which experts a token goes to, and with what weight.
/// @paper{DSV4, section 2.1}
/// axes     t token · d channel · e routed expert · k choice
/// oracle   model.py, Gate.forward
/// deviates ties between experts are decided (lower index)
///
/// Affinity s = sqrt(softplus(logit)), in wide arithmetic from an input that is not quantised.
/// Learned layers choose by s + bias (the bias moves the choice, never the weight); hash layers take
/// the experts of the token from a table, in its order, and the gate gives only the weights.
/// @post (1) sum_k weights = routed_scaling_factor   (2) the chosen experts of a token are distinct in
/// learned layers   (3) choices are listed by falling s + bias
#include <cmath>

#include "../core/call.hpp"
#include "../num/formulas.hpp"
#include "../op/linear.hpp"
#include "../op/top_k.hpp"
#include "weights.hpp"

namespace dsv4 {

/// The routes of a batch's tokens.
template <class W, class Mem = mem::host>
struct routing {
  view<std::int32_t, 2, Mem> indices;  // [t, k]
  view<W, 2, Mem> weights;             // [t, k]
};

namespace kernel {
/// run(e, logits [t, e] in place to scores, bias [e] or empty, biased [t, e]).
template <execution E>
struct gate_scores {
  static_assert(has_kernel<E>, "gate_scores: no kernel for this executor");
};

/// run(e, scratch, biased [t, e], table, ids [t], indices [t, k]): the experts of every token, by its biased scores or,
/// where there is a table, from its row of that.
template <execution E>
struct choose_experts {
  static_assert(has_kernel<E>, "choose_experts: no kernel for this executor");
};
/// run(e, scores [t, e], factor, route): weight = s / sum of the chosen s * factor.
template <execution E>
struct route_weights {
  static_assert(has_kernel<E>, "route_weights: no kernel for this executor");
};
/// run(e, indices [t, k], experts): after an observer may have forced other experts.
/// @throws contract_violation unless all are below `experts`
template <execution E>
struct check_experts {
  static_assert(has_kernel<E>, "check_experts: no kernel for this executor");
};

template <host_execution E>
struct choose_experts<E> {
  static void run(E&, workspace& scratch, view<const wide_t<E>, 2> biased, const expert_table& table,
                  view<const std::int32_t, 1> ids, view<std::int32_t, 2> indices) {
    const workspace::scope here(scratch);
    const index_t experts = biased.extent(1), k = indices.extent(1);
    const auto order = take_list<std::int32_t>(scratch, static_cast<std::size_t>(experts));
    for (index_t t = 0; t < indices.extent(0); ++t) {
      if (table.present()) {
        for (index_t j = 0; j < k; ++j) indices(t, j) = static_cast<std::int32_t>(table.at(ids[t], j));
      } else {
        top_k(std::span<const wide_t<E>>(biased[t].data(), order.size()), order,
              std::span(indices[t].data(), static_cast<std::size_t>(k)));
      }
    }
  }
};

template <host_execution E>
struct route_weights<E> {
  using W = wide_t<E>;
  static void run(E&, view<const W, 2> scores, double factor, const routing<W>& route) {
    for (index_t t = 0; t < route.indices.extent(0); ++t) {
      W sum = 0;
      for (index_t j = 0; j < route.indices.extent(1); ++j) sum += scores(t, route.indices(t, j));
      for (index_t j = 0; j < route.indices.extent(1); ++j)
        route.weights(t, j) = gate_weight(scores(t, route.indices(t, j)), sum, W(factor));
    }
  }
};

template <host_execution E>
struct check_experts<E> {
  static void run(E&, view<const std::int32_t, 2> indices, index_t experts) {
    for (const std::int32_t chosen : indices) expects_in(chosen, 0, experts, "ffn.gate.indices: expert");
  }
};

template <>
struct gate_scores<exec::ref> {
  static void run(exec::ref&, view<double, 2> scores, view<const float, 1> bias, view<double, 2> biased) {
    for (index_t t = 0; t < scores.extent(0); ++t)
      for (index_t e = 0; e < scores.extent(1); ++e) {
        scores(t, e) = gate_affinity(scores(t, e));
        biased(t, e) = scores(t, e) + (bias.extent(0) ? double(bias[e]) : 0.0);
      }
  }
};
}  // namespace kernel

/// Chosen experts and their weights; views live in the call's scratch.  `ids` are the tokens' vocabulary ids.
template <execution E, class A, observer Tap>
routing<wide_t<E>, mem_of<E>> gate(const call_context<E, Tap>& call, view<A, 2, mem_of<E>> x /*[t,d]*/,
                                   view<const std::int32_t, 1, mem_of<E>> ids /*[t]*/,
                                   const gate_weights<storage_of<E>>& w) {
  using W = wide_t<E>;
  using memory = mem_of<E>;
  const auto& [e, scratch, host, c, tap] = call;
  const index_t t = x.extent(0), k = c.num_experts_per_tok, experts = c.n_routed_experts;
  const routing<W, memory> route{take<std::int32_t>(scratch, t, k), take<W>(scratch, t, k)};
  auto scores = take<W>(scratch, t, experts);  // [t, e]
  auto biased = take<W>(scratch, t, experts);  // [t, e]

  linear(e, x, w.weight, scores);
  kernel::gate_scores<E>::run(e, scores, w.bias, biased);
  tap.rows(site::gate_scores, scores);
  tap.rows(site::gate_biased, biased);

  kernel::choose_experts<E>::run(e, scratch, view<const W, 2, memory>(biased), w.tid2eid, ids, route.indices);
  tap.rows(site::gate_indices, route.indices);
  if constexpr (Tap::on)
    kernel::check_experts<E>::run(e, view<const std::int32_t, 2, memory>(route.indices), experts);

  kernel::route_weights<E>::run(e, view<const W, 2, memory>(scores), c.routed_scaling_factor, route);
  tap.rows(site::gate_weights, route.weights);
  return route;
}

}  // namespace dsv4
