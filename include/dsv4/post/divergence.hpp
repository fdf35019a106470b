// SPDX-License-Identifier: MIT
#pragma once
/// How far a student is from a teacher at one position, over the whole vocabulary.
/// @paper{DSV4, section 5.1.2, Eq. (29): reverse KL; the mixtures between both directions: GKD}
/// axes     v vocabulary
/// oracle   golden/opd: per_token_kl, trl.*, edge; finite differences
/// deviates a token that the student excludes adds 0, its limit; torch computes 0 (-inf - x) = NaN
///
///   a, b = log softmax(student / temperature), log softmax(teacher / temperature)
///   reverse   KL(student || teacher) = sum_v e^a_v (a_v - b_v)         d KL / d z_j = e^a_j ((a_j - b_j) - KL)
///   between   with m = (1 - beta) e^a + beta e^b:   beta KL(teacher || m) + (1 - beta) KL(student || m)
///   beta = 1 is the reverse, beta = 0 the forward KL(teacher || student)
///
/// Reverse KL asks the student to be right wherever it goes; forward KL to go wherever the teacher does.
/// A teacher that excludes a token which the student allows is infinitely far away (reverse).
#include <cmath>
#include <string>

#include "../core/contract.hpp"
#include "token_probability.hpp"

namespace dsv4::post {

struct divergence_rule {
  double temperature = 1;  ///< of both; the divergence is not multiplied by its square
  double beta = 1;         ///< 1: reverse KL, what on-policy distillation takes
};

/// p (x), where p = 0 is stronger than any infinity in x.
template <class T>
T weighted(T p, T x) {
  return p == 0 ? T(0) : p * x;
}

/// Divergence of one position; dlogits [v] += scale times its gradient with respect to the student's logits (an empty
/// view: not wanted).  Not finite only if the teacher excludes what the student allows.
template <class T>
T divergence(view<const T, 1> student /*[v]*/, view<const T, 1> teacher /*[v]*/, const divergence_rule& rule,
             T scale, view<T, 1> dlogits /*[v]*/) {
  // contract
  const index_t n = student.extent(0);
  expects_equal(teacher.extent(0), n, "divergence: the teacher's vocabulary against the student's");
  expects(rule.temperature > 0, "divergence: the temperature must be above 0");
  expects(rule.beta >= 0 && rule.beta <= 1,
          "divergence: beta must lie in [0, 1], got " + std::to_string(rule.beta));

  const T sharpness = T(1 / rule.temperature), beta = T(rule.beta);
  const auto scaled_log_sum_exp = [&](const T* z) {
    const T largest = fold(n, z[0], [=](index_t v) { return z[v]; }, [](T x, T y) { return x < y ? y : x; });
    return largest * sharpness +
           std::log(fold(n, T(0), [=](index_t v) { return std::exp((z[v] - largest) * sharpness); }));
  };
  const T student_lse = scaled_log_sum_exp(student.data()), teacher_lse = scaled_log_sum_exp(teacher.data());
  const auto a = [&](index_t v) { return student[v] * sharpness - student_lse; };
  const auto b = [&](index_t v) { return teacher[v] * sharpness - teacher_lse; };

  if (rule.beta == 0) {
    // einsum: v, v -> (scalar)
    const T kl = fold(n, T(0), [&](index_t v) { return weighted(std::exp(b(v)), b(v) - a(v)); });
    for (index_t v = 0; dlogits.data() && v < n; ++v)
      dlogits[v] += scale * sharpness * (std::exp(a(v)) - std::exp(b(v)));
    return kl;
  }
  // log m, the mixture; for the reverse KL it is the teacher.
  const auto mixture = [&](index_t v) {
    return rule.beta == 1 ? b(v) : std::log((1 - beta) * std::exp(a(v)) + beta * std::exp(b(v)));
  };
  // Eq. (29)
  const T from_student =
      fold(n, T(0), [&](index_t v) { return weighted(std::exp(a(v)), a(v) - mixture(v)); });
  const T share =
      rule.beta == 1 ? T(1) : 1 - beta;  // of the student's part, the only one with a gradient term
  for (index_t v = 0; dlogits.data() && v < n; ++v)
    dlogits[v] += scale * sharpness * share * weighted(std::exp(a(v)), a(v) - mixture(v) - from_student);
  if (rule.beta == 1) return from_student;
  const T from_teacher =
      fold(n, T(0), [&](index_t v) { return weighted(std::exp(b(v)), b(v) - mixture(v)); });
  return beta * from_teacher + share * from_student;
}

}  // namespace dsv4::post
