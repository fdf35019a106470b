// SPDX-License-Identifier: MIT
#pragma once
/// GRPO: the loss of a batch of answers, and its gradient with respect to their log-probabilities.
/// @paper{DSV4, section 5.1; steps and their order as in TRL 1.16}
/// axes     b answer · t token
/// oracle   golden/grpo: loss to 1e-12, gradients to 1e-10; finite differences
/// deviates none
///
///   1  c      ratio of every token, or of every answer            policy_ratio.hpp
///   2  L      clipped loss of every token                         policy_loss.hpp
///   3  L *=   answers that are on-policy enough                   answer_mask.hpp
///   4  L *=   tokens of high entropy, importance weights          answer_mask.hpp
///   5  L +=   beta KL to the reference, of masked tokens too      kl.hpp
///   6  loss = sum of W L                                          aggregate.hpp
///
/// Everything is a plain loop over [b, t]: the vocabulary is in token_probability.hpp, and costs more by its size.
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "../core/tensor.hpp"
#include "aggregate.hpp"
#include "answer_mask.hpp"
#include "kl.hpp"
#include "policy_loss.hpp"
#include "policy_ratio.hpp"

namespace dsv4::post {

struct grpo_settings {
  ratio_level level = ratio_level::token;
  clip_bounds clip = {};
  double beta = 0;                                  ///< weight of the KL term; 0: no reference is needed
  bool corrected_kl = true;                         ///< its weight with the ratio (kl.hpp)
  std::optional<double> off_policy_threshold = {};  ///< none: every answer stays
  std::optional<double> entropy_share = {};         ///< of the tokens, the most uncertain; none: all
  aggregation aggregate = {};
};

/// What is known of the answers; a view without data is "not given".
template <class T>
struct answer_batch {
  view<const T, 2> lp;               // [b,t] log-probabilities under the policy
  view<const T, 2> old = {};         // [b,t] when the answers were written; not given: by this policy
  view<const T, 2> ref = {};         // [b,t] under the reference, where beta > 0
  view<const T, 2> sampler = {};     // [b,t] as the sampler gave them; not given: `old`
  view<const T, 2> entropy = {};     // [b,t] where entropy_share is set
  view<const T, 2> importance = {};  // [b,t] weights of the policy term
  view<const T, 1> advantage;        // [b]
  view<const std::uint8_t, 2> mask;  // [b,t] the loss mask: tokens the policy wrote and is judged by
};

struct grpo_report {
  double loss = 0;
  double kl = 0;          ///< mean of the KL term over the tokens that count, before beta
  double ratio = 0;       ///< mean ratio
  double clipped = 0;     ///< share of tokens that a bound holds
  index_t dropped = 0;    ///< answers that were too far off-policy
  index_t uncertain = 0;  ///< tokens that the entropy mask left
  index_t tokens = 0;     ///< that count
};

/// dlp [b, t] += the gradient.
/// @throws contract_violation  shapes differ, something that the settings need is not given, or a number of a token
///                             that counts is not finite
template <class T>
grpo_report grpo_loss(const grpo_settings& s, const answer_batch<T>& a, view<T, 2> dlp /*[b,t]*/) {
  // contract
  const index_t answers = a.lp.extent(0), longest = a.lp.extent(1);
  const auto same = [&](const auto& x, const char* name) {
    if (!x.data()) return;
    expects_equal(x.extent(0), answers, std::string("grpo_loss: answers of ") + name);
    expects_equal(x.extent(1), longest, std::string("grpo_loss: tokens of ") + name);
  };
  expects(a.mask.data() && a.advantage.data(), "grpo_loss: advantage and mask must be given");
  same(a.old, "old"), same(a.ref, "ref"), same(a.sampler, "sampler"), same(a.entropy, "entropy");
  same(a.importance, "importance"), same(a.mask, "mask"), same(dlp, "dlp");
  expects_equal(a.advantage.extent(0), answers, "grpo_loss: advantages");
  expects(s.beta == 0 || a.ref.data(), "grpo_loss: beta > 0 needs the reference's log-probabilities");
  expects(!s.entropy_share || a.entropy.data(), "grpo_loss: entropy_share needs the entropies");
  for (index_t b = 0; b < answers; ++b)
    expects(std::isfinite(a.advantage[b]), "grpo_loss: the advantage of answer " + std::to_string(b) +
                                               " is not finite; see advantages() for rewards that are NaN");

  // Ratio and weight of every token; from here on a token that does not count is never looked at.
  tensor<T, 2> ratio(answers, longest), dratio(answers, longest), weight(answers, longest);
  tensor<T, 2> gradient(answers, longest);  // added to dlp at the end, when nothing can fail any more
  policy_ratio<T>(s.level, a.lp, a.old, a.mask, ratio);
  token_weights<T>(s.aggregate, a.mask, weight);
  const view<const T, 2> old = a.old.data() ? a.old : a.lp, sampler = a.sampler.data() ? a.sampler : old;
  const T threshold = s.entropy_share ? entropy_threshold<T>(a.entropy, a.mask, *s.entropy_share) : T(0);

  grpo_report r;
  for (index_t b = 0; b < answers; ++b) {
    const bool keep = !s.off_policy_threshold ||
                      is_on_policy<T>(a.advantage[b], a.lp, sampler, a.mask, b, *s.off_policy_threshold);
    r.dropped += keep ? 0 : 1;
    for (index_t t = 0; t < longest; ++t) {
      if (!a.mask(b, t)) continue;
      const T c = ratio(b, t);
      ratio_loss<T> l = clipped_loss<T>(c, a.advantage[b], s.clip);
      r.clipped += l.clipped ? 1 : 0;
      const bool decides = !s.entropy_share || a.entropy(b, t) >= threshold;
      r.uncertain += decides ? 1 : 0;
      const T factor = (keep && decides ? T(1) : T(0)) * (a.importance.data() ? a.importance(b, t) : T(1));
      l.loss *= factor;
      l.dratio *= factor;

      if (s.beta != 0) {
        const kl_estimate<T> k =
            s.corrected_kl ? corrected_k3<T>(a.lp(b, t), a.ref(b, t), c) : k3<T>(a.lp(b, t), a.ref(b, t));
        l.loss += T(s.beta) * k.value;
        l.dratio += T(s.beta) * k.dratio;
        gradient(b, t) = weight(b, t) * T(s.beta) * k.dlp;
        r.kl += double(k.value);
      }
      if (!std::isfinite(l.loss))
        throw contract_violation("grpo_loss: token " + std::to_string(t) + " of answer " + std::to_string(b) +
                                 " has the loss " + std::to_string(double(l.loss)) + ": log-probabilities " +
                                 std::to_string(double(a.lp(b, t))) + ", old " +
                                 std::to_string(double(old(b, t))));
      r.loss += double(weight(b, t) * l.loss);
      dratio(b, t) = weight(b, t) * l.dratio;
      r.ratio += double(c);
      ++r.tokens;
    }
  }
  policy_ratio_backward<T>(s.level, dratio, ratio, a.mask, gradient);
  for (index_t i = 0; i < dlp.size(); ++i) dlp.data()[i] += gradient.data()[i];
  if (const double n = double(r.tokens); n > 0) r.kl /= n, r.ratio /= n, r.clipped /= n;
  return r;
}

}  // namespace dsv4::post
