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

#include "../core/config.hpp"
#include "../core/tap.hpp"
#include "../num/formulas.hpp"
#include "../op/linear.hpp"
#include "../op/top_k.hpp"
#include "weights.hpp"

namespace dsv4 {

/// One token's route.
template <class W>
struct routing {
  view<std::int32_t, 2> indices;  // [t, k]
  view<W, 2> weights;             // [t, k]
};

namespace kernel {
/// run(e, logits [t, e] in place to scores, bias [e] or empty, biased [t, e]).
template <execution E>
struct gate_scores {
  static_assert(has_kernel<E>, "gate_scores: no kernel for this executor");
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

/// Chosen experts and their weights; views live in `scratch`.  `ids` are the tokens' vocabulary ids.
template <execution E, class A, observer Tap>
routing<wide_t<E>> gate(E& e, workspace& scratch, const tapper<Tap>& tap, const config& c,
                        view<A, 2> x /*[t,d]*/, std::span<const std::int32_t> ids /*[t]*/,
                        const gate_weights<>& w) {
  using W = wide_t<E>;
  const index_t t = x.extent(0), k = c.num_experts_per_tok, experts = c.n_routed_experts;
  routing<W> route{scratch.take<std::int32_t>(t, k), scratch.take<W>(t, k)};
  auto scores = scratch.take<W>(t, experts);         // [t, e]
  auto biased = scratch.take<W>(t, experts);         // [t, e]
  auto order = scratch.take<std::int32_t>(experts);  // scratch of top_k

  linear(e, x, w.weight, scores);
  kernel::gate_scores<E>::run(e, scores, w.bias, biased);
  tap.rows(site::gate_scores, scores);
  tap.rows(site::gate_biased, biased);

  for (index_t i = 0; i < t; ++i) {
    if (w.tid2eid.present()) {
      for (index_t j = 0; j < k; ++j)
        route.indices(i, j) = static_cast<std::int32_t>(w.tid2eid.at(ids[static_cast<std::size_t>(i)], j));
    } else {
      top_k(std::span<const W>(biased[i].data(), std::size_t(experts)),
            std::span(order.data(), std::size_t(experts)),
            std::span(route.indices[i].data(), std::size_t(k)));
    }
  }
  tap.rows(site::gate_indices, route.indices);
  if constexpr (Tap::on)  // an observer may have forced other experts
    for (const std::int32_t chosen : route.indices)
      expects_in(chosen, 0, experts, "ffn.gate.indices: expert");

  // weight = s / sum of the chosen s * routed_scaling_factor
  for (index_t i = 0; i < t; ++i) {
    W sum = 0;
    for (index_t j = 0; j < k; ++j) sum += scores(i, route.indices(i, j));
    for (index_t j = 0; j < k; ++j)
      route.weights(i, j) = gate_weight(scores(i, route.indices(i, j)), sum, W(c.routed_scaling_factor));
  }
  tap.rows(site::gate_weights, route.weights);
  return route;
}

}  // namespace dsv4
