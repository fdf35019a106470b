// SPDX-License-Identifier: MIT
#pragma once
/// Log-probability of each token of an answer, and entropy of what it was drawn from; and the way back to the logits.
/// @paper{DSV4, section 5.1}
/// axes     b answer · t token · v vocabulary
/// oracle   golden/grpo: per_token_logps, entropies
/// deviates none
///
///   lp = log softmax(z)[token]      d lp / d z_v = [v = token] - softmax(z)_v      H = -sum_v p_v log p_v
#include <cmath>
#include <cstdint>

#include "../core/contract.hpp"
#include "../core/fold.hpp"
#include "../core/view.hpp"

namespace dsv4::post {

/// log sum exp of one row.  Minus infinity marks a token that is excluded; not all may be.
template <class T>
T log_sum_exp(const T* z, index_t n) {
  const T largest = fold(n, z[0], [=](index_t v) { return z[v]; }, [](T a, T b) { return a < b ? b : a; });
  return largest + std::log(fold(n, T(0), [=](index_t v) { return std::exp(z[v] - largest); }));
}

template <class T>
struct token_probability {
  T log_probability, entropy;
};

/// Of `token` under one row of logits.
template <class T>
token_probability<T> probability_of(view<const T, 1> logits /*[v]*/, std::int32_t token) {
  expects_in(token, 0, logits.extent(0), "probability_of: token");
  const T *z = logits.data(), lse = log_sum_exp(z, logits.extent(0));
  const auto plogp = [=](index_t v) {
    const T a = z[v] - lse, p = std::exp(a);
    return p == 0 ? T(0) : p * a;  // the limit of an excluded token
  };
  return {z[token] - lse, -fold(logits.extent(0), T(0), plogp)};
}

/// dlogits += dlp (onehot - softmax).
template <class T>
void probability_backward(view<const T, 1> logits /*[v]*/, std::int32_t token, T dlp,
                          view<T, 1> dlogits /*[v]*/) {
  const T lse = log_sum_exp(logits.data(), logits.extent(0));
  for (index_t v = 0; v < logits.extent(0); ++v) dlogits[v] -= dlp * std::exp(logits[v] - lse);
  dlogits[token] += dlp;
}

/// Answers of different lengths as a rectangle: what stands at [b, t] exists, and counts.
struct answer_tokens {
  view<const std::int32_t, 2> ids;      // [b,t]
  view<const std::uint8_t, 2> written;  // [b,t] 1: a token of the answer, so that it has a log-probability
};

/// Log-probabilities and entropies [b, t], 0 where nothing is written.
template <class T>
void token_probabilities(view<const T, 3> logits /*[b,t,v]*/, const answer_tokens& answers,
                         view<T, 2> lp /*[b,t]*/, view<T, 2> entropy /*[b,t]*/) {
  for (index_t b = 0; b < lp.extent(0); ++b)
    for (index_t t = 0; t < lp.extent(1); ++t) {
      token_probability<T> p{0, 0};
      if (answers.written(b, t)) p = probability_of<T>(logits[b][t], answers.ids(b, t));
      lp(b, t) = p.log_probability;
      entropy(b, t) = p.entropy;
    }
}

/// dlogits += the gradient that dlp gives them; rows where nothing is written get none.
template <class T>
void token_probabilities_backward(view<const T, 3> logits /*[b,t,v]*/, const answer_tokens& answers,
                                  view<const T, 2> dlp /*[b,t]*/, view<T, 3> dlogits /*[b,t,v]*/) {
  for (index_t b = 0; b < dlp.extent(0); ++b)
    for (index_t t = 0; t < dlp.extent(1); ++t)
      if (answers.written(b, t) && dlp(b, t) != 0)
        probability_backward<T>(logits[b][t], answers.ids(b, t), dlp(b, t), dlogits[b][t]);
}

}  // namespace dsv4::post
