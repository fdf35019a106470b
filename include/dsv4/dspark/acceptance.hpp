// SPDX-License-Identifier: MIT
#pragma once
/// Which drafted tokens stand, so that what is written is distributed as if the target had written it alone.
/// source   DSpark; speculative sampling
/// axes     k slot of a block · v vocabulary
/// oracle   golden/dspark/verify.safetensors
///
///   p draft, q target      a token x stands with probability min(1, q_x / p_x)
///   the first that falls is drawn anew from max(q - p, 0), normalised
///   all stand: one more token comes from the target's next row
///
/// @post (1) sum_x p_x min(1, q_x / p_x) = sum_x min(p_x, q_x) = 1 - 1/2 sum_x |p_x - q_x|: the rate of acceptance
///       (2) min(p, q) + (1 - rate) residual = q: lossless
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../core/contract.hpp"
#include "../core/fold.hpp"
#include "../core/view.hpp"

namespace dsv4::dspark {

/// A temperature below this is greedy: dividing by it would leave nothing but the largest logit anyway.
inline constexpr double greedy_temperature = 1e-5;
/// Probabilities of the draft count as at least this in a quotient, and a residual of at most this mass as none.
inline constexpr double smallest_mass = 1e-8;

/// The largest value's id, the lowest among equals.
template <class T>
std::int32_t likeliest(view<const T, 1> x /*[v]*/) {
  index_t best = 0;
  for (index_t v = 1; v < x.extent(0); ++v)
    if (x[v] > x[best]) best = v;
  return static_cast<std::int32_t>(best);
}

/// Softmax at a temperature; greedy: all mass on the likeliest.
template <class T>
void probabilities(view<const T, 1> logits /*[v]*/, double temperature, view<T, 1> p /*[v]*/) {
  const index_t n = logits.extent(0), best = likeliest(logits);
  if (temperature < greedy_temperature) {
    for (index_t v = 0; v < n; ++v) p[v] = v == best ? T(1) : T(0);
    return;
  }
  for (index_t v = 0; v < n; ++v) p[v] = std::exp((logits[v] - logits[best]) / T(temperature));
  const T sum = fold(n, T(0), [&](index_t v) { return p[v]; });
  for (index_t v = 0; v < n; ++v) p[v] /= sum;
}

/// How probable it is that a token drawn from p stands before q: (1).
template <class T>
T acceptance_rate(view<const T, 1> p /*[v]*/, view<const T, 1> q /*[v]*/) {
  const T distance = fold(p.extent(0), T(0), [&](index_t v) { return std::abs(p[v] - q[v]); });
  return std::clamp(1 - distance / 2, T(0), T(1));
}

/// That of one token.
template <class T>
T acceptance_probability(T p, T q) {
  return std::min(q / std::max(p, T(smallest_mass)), T(1));
}

/// What the first token that falls is drawn from; q itself where rounding leaves nothing of the difference.
template <class T>
void residual(view<const T, 1> p /*[v]*/, view<const T, 1> q /*[v]*/, view<T, 1> next /*[v]*/) {
  const index_t n = q.extent(0);
  const auto left = [&](index_t v) { return std::max(q[v] - p[v], T(0)); };
  const T mass = fold(n, T(0), left);
  for (index_t v = 0; v < n; ++v) next[v] = mass > T(smallest_mass) ? left(v) / mass : q[v];
}

/// How many drafted tokens stand; next: the distribution of the token after them.
/// uniform [k]: a random number in [0, 1) for each slot.
template <class T>
index_t verified(view<const T, 2> draft /*[k,v]*/, view<const T, 2> target /*[k+1,v]*/,
                 view<const std::int32_t, 1> tokens /*[k]*/, view<const T, 1> uniform /*[k]*/,
                 view<T, 1> next /*[v]*/) {
  // contract
  const index_t slots = draft.extent(0);
  expects_equal(target.extent(0), slots + 1, "verified: rows of the target against the draft's and one more");
  expects_equal(target.extent(1), draft.extent(1), "verified: the target's vocabulary against the draft's");
  expects_equal(tokens.extent(0), slots, "verified: tokens against rows of the draft");

  for (index_t k = 0; k < slots; ++k) {
    expects_in(tokens[k], 0, draft.extent(1), "verified: token");
    if (uniform[k] < acceptance_probability(draft(k, tokens[k]), target(k, tokens[k]))) continue;
    residual<T>(draft[k], target[k], next);
    return k;
  }
  std::copy_n(target[slots].data(), next.extent(0), next.data());
  return slots;
}

/// Draft length by confidence: how many slots from the first on are believed to stand with at least this probability.
/// confidence [k]: logits.
template <class T>
index_t confident_slots(view<const T, 1> confidence /*[k]*/, double threshold) {
  index_t k = 0;
  while (k < confidence.extent(0) && 1 / (1 + std::exp(-double(confidence[k]))) >= threshold) ++k;
  return k;
}

}  // namespace dsv4::dspark
