// SPDX-License-Identifier: MIT
#pragma once
/// What a drafter learns: to say the next tokens, to be distributed as the target is, and to know how far it can be trusted.
/// source   DSpark; as DeepSpec trains it
/// axes     n block · k slot · v vocabulary
/// oracle   golden/dspark/loss.safetensors
///
///   p, q = softmax of draft and target     a = 1 - 1/2 sum |p - q|     w_k = [slot counts] e^(-k / decay)     D = sum w + 1e-6
///   loss = sum_nk w (c_ce CE + c_l1 sum |p - q| + c_conf BCE(confidence, a as a constant)) / D
///
/// The distance is what acceptance loses (acceptance.hpp), so that the confidence head's aim is exact and needs no sampling.
/// Early slots weigh more: a slot counts only if all before it stood.
/// Back:  CE: p - onehot    L1: p_v (s_v - sum_u p_u s_u), s = sign(p - q)    BCE: sigmoid(confidence) - a
#include <cmath>
#include <cstdint>
#include <vector>

#include "../core/contract.hpp"
#include "../core/fold.hpp"
#include "../core/tensor.hpp"
#include "../num/formulas.hpp"
#include "acceptance.hpp"

namespace dsv4::dspark {

struct loss_rule {
  double decay = 4;  ///< of the weights over the slots; 0: all weigh the same
  double cross_entropy = 0.1, distance = 0.9, confidence = 1;
};

/// Keeps the division finite where nothing counts.
inline constexpr double weight_floor = 1e-6;

template <class T>
struct drafted {
  view<const T, 3> draft, target;       // [n,k,v] logits
  view<const T, 2> confidence;          // [n,k] logits; an empty view: there is no such head
  view<const std::int32_t, 2> labels;   // [n,k]
  view<const std::uint8_t, 2> counted;  // [n,k]
};

/// Means over what counts, to be looked at.
template <class T>
struct draft_metrics {
  T cross_entropy{}, distance{}, confidence_loss{};
  T confidence_error{}, confidence_bias{};  // of sigmoid(confidence) - a: absolute, signed
  T run_bias{};                             // of their running products
  T expected_tokens{};                      // 1 + sum_k prod_{j <= k} a_j: what one call of the target yields
  std::vector<T> acceptance;                // [k]
};

namespace detail {

template <class T>
struct slot_terms {
  tensor<T, 1> p, q;
  T cross_entropy{}, distance{}, acceptance{}, confidence_loss{};

  slot_terms(const drafted<T>& x, index_t n, index_t k) : p(x.draft.extent(2)), q(x.draft.extent(2)) {
    const index_t vocabulary = p.extent(0);
    const std::int32_t label = x.labels(n, k);
    expects_in(label, 0, vocabulary, "draft_loss: label");
    probabilities<T>(x.draft[n][k], 1, p);
    probabilities<T>(x.target[n][k], 1, q);
    const view<const T, 1> z = x.draft[n][k];
    const T largest = z[likeliest(z)];
    const T lse =
        largest + std::log(fold(vocabulary, T(0), [&](index_t v) { return std::exp(z[v] - largest); }));
    cross_entropy = lse - z[label];
    distance = fold(vocabulary, T(0), [&](index_t v) { return std::abs(p[v] - q[v]); });
    acceptance = acceptance_rate<T>(p, q);
    if (!x.confidence.data()) return;
    const T c = x.confidence(n, k);
    confidence_loss = std::max(c, T(0)) - c * acceptance + std::log1p(std::exp(-std::abs(c)));
  }
};

template <class T>
T slot_weight(const drafted<T>& x, const loss_rule& rule, index_t n, index_t k) {
  if (!x.counted(n, k)) return 0;
  return rule.decay > 0 ? T(std::exp(-double(k) / rule.decay)) : T(1);
}
template <class T>
T weight_sum(const drafted<T>& x, const loss_rule& rule) {
  T sum = 0;
  for (index_t n = 0; n < x.draft.extent(0); ++n)
    for (index_t k = 0; k < x.draft.extent(1); ++k) sum += slot_weight(x, rule, n, k);
  return sum;
}

}  // namespace detail

/// The loss; ddraft [n,k,v] and dconfidence [n,k] += its gradient (an empty view: not wanted).
template <class T>
T draft_loss(const drafted<T>& x, const loss_rule& rule, view<T, 3> ddraft = {},
             view<T, 2> dconfidence = {}) {
  // contract
  expects(x.draft.extents() == x.target.extents(),
          "draft_loss: the target's logits are shaped as the draft's");
  expects(rule.confidence == 0 || x.confidence.data(), "draft_loss: a confidence loss needs confidences");

  const T all = detail::weight_sum(x, rule) + T(weight_floor);
  T loss = 0;
  for (index_t n = 0; n < x.draft.extent(0); ++n)
    for (index_t k = 0; k < x.draft.extent(1); ++k) {
      const T w = detail::slot_weight(x, rule, n, k) / all;
      if (w == 0) continue;
      const detail::slot_terms<T> s(x, n, k);
      const T ce = T(rule.cross_entropy), l1 = T(rule.distance), sure = T(rule.confidence);
      loss += w * (ce * s.cross_entropy + l1 * s.distance + sure * s.confidence_loss);
      if (dconfidence.data()) dconfidence(n, k) += sure * w * (sigmoid(x.confidence(n, k)) - s.acceptance);
      if (!ddraft.data()) continue;
      const auto sign = [&](index_t v) { return T((s.p[v] > s.q[v]) - (s.p[v] < s.q[v])); };
      const T mean = fold(s.p.extent(0), T(0), [&](index_t v) { return s.p[v] * sign(v); });
      for (index_t v = 0; v < s.p.extent(0); ++v)
        ddraft(n, k, v) += w * s.p[v] * (ce + l1 * (sign(v) - mean));
      ddraft(n, k, x.labels(n, k)) -= w * ce;
    }
  return loss;
}

/// kept [n]: blocks that are no dummies.
template <class T>
draft_metrics<T> measured(const drafted<T>& x, view<const std::uint8_t, 1> kept /*[n]*/, double decay) {
  const index_t slots = x.draft.extent(1);
  const loss_rule rule{.decay = decay};
  draft_metrics<T> m;
  m.acceptance.assign(usize(slots), T(0));
  std::vector<T> counted(usize(slots), T(0));
  const T all = detail::weight_sum(x, rule);
  T blocks = 0, lengths = 0;
  for (index_t n = 0; n < x.draft.extent(0); ++n) {
    T stands = 1, believed = 1, length = 1;
    bool any = false;
    for (index_t k = 0; k < slots; ++k) {
      const detail::slot_terms<T> s(x, n, k);
      const T w = detail::slot_weight(x, rule, n, k), on = x.counted(n, k) ? T(1) : T(0);
      any = any || x.counted(n, k);
      m.cross_entropy += w * s.cross_entropy, m.distance += w * s.distance;
      m.acceptance[usize(k)] += on * s.acceptance, counted[usize(k)] += on;
      length += stands *= on * s.acceptance;
      if (!x.confidence.data()) continue;
      const T c = sigmoid(x.confidence(n, k));
      believed *= on * c;
      m.confidence_loss += w * s.confidence_loss;
      m.confidence_error += w * std::abs(c - s.acceptance), m.confidence_bias += w * (c - s.acceptance);
      m.run_bias += w * (believed - stands);
    }
    if (kept[n] && any) lengths += length, ++blocks;
  }
  if (all > 0)
    for (T* mean : {&m.cross_entropy, &m.distance, &m.confidence_loss, &m.confidence_error,
                    &m.confidence_bias, &m.run_bias})
      *mean /= all;
  for (index_t k = 0; k < slots; ++k)
    if (counted[usize(k)] > 0) m.acceptance[usize(k)] /= counted[usize(k)];
  m.expected_tokens = blocks > 0 ? lengths / blocks : T(1);
  return m;
}

}  // namespace dsv4::dspark
