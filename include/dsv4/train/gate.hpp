// SPDX-License-Identifier: MIT
#pragma once
/// Routing, forward and backward, with both ways to balance it: a loss per sequence, and the selection bias.
/// @paper{DSV4, section 2.1; DeepSeek-V3, section 2.1.2: balance loss and auxiliary-loss-free balancing}
/// axes     t token · e expert · k choice
/// oracle   moe/gate.hpp (forward); finite differences; golden/transformers/seed0/grads.safetensors
/// deviates f_i counts the experts that were used (with the bias), not the top k without it; hash layers have no
///          balance loss (their f is a constant of the text)
///
///   s = sqrt(softplus(W x))     w_k = scale s_k / S,  S = sum of the chosen s
///   ds_k = (scale dw_k - sum_j dw_j w_j) / S       dlogit = ds sigmoid(logit) / (2 s)
///   L_bal = alpha sum_e f_e P_e    f_e = E / (k T) tokens of expert e    P_e = 1/T sum_t s_te / sum_e' s_te'
///   after each step:  bias_e += speed where the load is below the mean, -= speed where it is above
#include <span>

#include "../moe/gate.hpp"
#include "batch.hpp"
#include "product.hpp"

namespace dsv4::train {

template <class T>
struct gate_saved {
  view<T, 2> logits, scores;      // [t, e]
  view<std::int32_t, 2> indices;  // [t, k]
  view<T, 2> weights;             // [t, k]

  static gate_saved take(workspace& w, const config& c, index_t t) {
    return {w.take<T>(t, c.n_routed_experts), w.take<T>(t, c.n_routed_experts),
            w.take<std::int32_t>(t, c.num_experts_per_tok), w.take<T>(t, c.num_experts_per_tok)};
  }
};

/// Experts and weights of every token.  One of `forced` [t, k], `table` [vocab, k] (hash layers) and `bias` [e] decides
/// the experts, the first that is not empty.
template <execution E, class T>
void gate(E& e, const config& c, view<T, 2> x /*[t,D]*/, std::span<const std::int32_t> ids,
          view<const T, 2> w /*[e,D]*/, view<const float, 1> bias, view<const std::int32_t, 2> table,
          view<const std::int32_t, 2> forced, const gate_saved<T>& s) {
  const index_t experts = c.n_routed_experts, k = c.num_experts_per_tok;
  project(e, x, w, s.logits);
  kernel::rows<E>::run(e, x.extent(0), token_grain, [&](index_t begin, index_t end) {
    workspace::scope here(thread_scratch());
    auto biased = thread_scratch().take<T>(experts);
    auto order = thread_scratch().take<std::int32_t>(experts);
    for (index_t t = begin; t < end; ++t) {
      for (index_t i = 0; i < experts; ++i) {
        s.scores(t, i) = gate_affinity(s.logits(t, i));
        biased[i] = s.scores(t, i) + (bias.data() ? T(bias[i]) : T(0));
      }
      const auto chosen = s.indices[t];
      if (forced.data())
        std::copy_n(forced[t].data(), k, chosen.data());
      else if (table.data())
        std::copy_n(table[ids[usize(t)]].data(), k, chosen.data());
      else
        top_k(std::span<const T>(biased.data(), usize(experts)), std::span(order.data(), usize(experts)),
              std::span(chosen.data(), usize(k)));
      T sum = 0;
      for (const std::int32_t i : chosen) sum += s.scores(t, i);
      for (index_t j = 0; j < k; ++j)
        s.weights(t, j) = gate_weight(s.scores(t, chosen[j]), sum, T(c.routed_scaling_factor));
    }
  });
}

/// Tokens of each expert.
template <class T>
std::vector<index_t> expert_load(const config& c, const gate_saved<T>& s, index_t begin, index_t end) {
  std::vector<index_t> n(usize(c.n_routed_experts), 0);
  for (index_t t = begin; t < end; ++t)
    for (const std::int32_t i : s.indices[t]) ++n[usize(i)];
  return n;
}

/// sum_e f_e P_e over the tokens [begin, end) of one sequence.  Adds `scale` times its gradient to dscores, unless that
/// is null.
template <class T>
double balance_loss(const config& c, const gate_saved<T>& s, index_t begin, index_t end, T scale,
                    view<T, 2> dscores /*[t,e]*/) {
  const index_t experts = c.n_routed_experts, tokens = end - begin;
  const std::vector<index_t> load = expert_load(c, s, begin, end);
  const double even = double(experts) / (double(c.num_experts_per_tok) * double(tokens));
  double loss = 0;
  for (index_t t = begin; t < end; ++t) {
    double sum = 0, mean_f = 0;  // mean_f: sum_e f_e s_te / S_t
    for (index_t i = 0; i < experts; ++i) sum += double(s.scores(t, i));
    for (index_t i = 0; i < experts; ++i)
      mean_f += even * double(load[usize(i)]) * double(s.scores(t, i)) / sum;
    loss += mean_f / double(tokens);
    if (!dscores.data()) continue;
    for (index_t i = 0; i < experts; ++i)
      dscores(t, i) += scale * T((even * double(load[usize(i)]) - mean_f) / (sum * double(tokens)));
  }
  return loss;
}

/// Adds to dx and dw, from the gradients of the routing weights and those of the scores (balance loss), which are
/// overwritten.
template <execution E, class T>
void gate_backward(E& e, const config& c, view<T, 2> dweights /*[t,k]*/,
                   view<T, 2> dscores /*[t,e] -> dlogits*/, view<T, 2> x /*[t,D]*/,
                   view<const T, 2> w /*[e,D]*/, const gate_saved<T>& s, view<T, 2> dx /*[t,D]*/,
                   view<T, 2> dw /*[e,D]*/) {
  const index_t k = c.num_experts_per_tok;
  kernel::rows<E>::run(e, x.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) {
      T sum = 0, pull = 0;  // S, sum_j dw_j w_j
      for (index_t j = 0; j < k; ++j) {
        sum += s.scores(t, s.indices(t, j));
        pull += dweights(t, j) * s.weights(t, j);
      }
      for (index_t j = 0; j < k; ++j)
        dscores(t, s.indices(t, j)) += (T(c.routed_scaling_factor) * dweights(t, j) - pull) / sum;
      for (index_t i = 0; i < dscores.extent(1); ++i) {
        dscores(t, i) *= gate_affinity_slope(s.logits(t, i), s.scores(t, i));
      }
    }
  });
  project_backward(e, dscores, x, w, dx, dw);
}

/// Auxiliary-loss-free balancing: the selection bias of one layer after a step.
inline void update_bias(view<float, 1> bias /*[e]*/, std::span<const index_t> load /*[e]*/, double speed) {
  const index_t experts = bias.extent(0);
  index_t total = 0;
  for (const index_t n : load) total += n;
  for (index_t i = 0; i < experts; ++i) {
    const index_t above = load[usize(i)] * experts - total;  // E (load - mean), an integer
    bias[i] -= static_cast<float>(above > 0 ? speed : above < 0 ? -speed : 0.0);
  }
}

}  // namespace dsv4::train
