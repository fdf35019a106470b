// SPDX-License-Identifier: MIT
#pragma once
/// On-policy distillation: the student's own answers, judged by teachers over the whole vocabulary.
/// @paper{DSV4, section 5.1.2, Eq. (29); section 5.2.2: hidden states kept, heads applied in pieces}
/// axes     n position (of all answers) · h channel of the student, k of the teacher · v vocabulary
/// oracle   golden/opd; divergence.hpp, row by row
/// deviates none
///
///   loss = sum_i sum_n w_in KL(student || teacher_i)_n          w_in carries mask, weight of the teacher and normaliser
///
/// What is kept of a teacher is the state before its head, k words a position.  Logits exist for a tile of positions and
/// a piece of the vocabulary only, so memory does not grow with vocabulary times length.  One pass over the pieces
/// finds, with running maxima and sums,
///   KL = sum e^s (s - t) / sum e^s - lse(s) + lse(t)
/// and a second one, which forms the logits again, the gradient.
/// Teachers come one after the other: one head is in memory at a time.
/// @post (1) logits kept as a whole give the bits that hidden states and a head give
///       (2) a position of weight 0 is neither computed nor looked at
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "../core/contract.hpp"
#include "../core/tensor.hpp"
#include "../train/product.hpp"

namespace dsv4::post {

/// Positions and tokens that have logits at the same time.  512 x 4096 words of 4 bytes are 8 MB, twice.
inline constexpr index_t distill_positions = 512, distill_tokens = 4096;

/// Where logits of a model come from: the state before its head, and the head ...
template <class T>
struct hidden_payload {
  view<const T, 2> hidden;  // [n,k]
  view<const T, 2> head;    // [v,k]
  index_t positions() const { return hidden.extent(0); }
  index_t vocabulary() const { return head.extent(0); }
};
/// ... or the logits themselves.
template <class T>
struct logit_payload {
  view<const T, 2> logits;  // [n,v]
  index_t positions() const { return logits.extent(0); }
  index_t vocabulary() const { return logits.extent(1); }
};

namespace detail {

/// Rows `at` of x, side by side.
template <class T>
view<T, 2> gather(workspace& scratch, view<const T, 2> x /*[n,k]*/, std::span<const index_t> at) {
  auto rows = scratch.take<T>(static_cast<index_t>(at.size()), x.extent(1));  // [m, k]
  for (index_t i = 0; i < rows.extent(0); ++i)
    std::copy(x[at[usize(i)]].begin(), x[at[usize(i)]].end(), rows[i].begin());
  return rows;
}

/// The logits of chosen positions, piece of the vocabulary by piece.
template <execution E, class T>
class piecewise_logits {
 public:
  piecewise_logits(workspace& scratch, const hidden_payload<T>& p, std::span<const index_t> at)
      : rows_(gather<T>(scratch, p.hidden, at)), head_(p.head) {}
  piecewise_logits(workspace& scratch, const logit_payload<T>& p, std::span<const index_t> at)
      : rows_(gather<T>(scratch, p.logits, at)) {}

  view<T, 2> rows() const { return rows_; }
  /// Tokens [from, from + out.extent(1)).
  void piece(E& e, index_t from, view<T, 2> out /*[m,v]*/) const {
    const index_t n = out.extent(1);
    if (head_.data()) return train::project(e, rows_, head_.rows(from, from + n), out);
    for (index_t i = 0; i < out.extent(0); ++i) std::copy_n(rows_[i].data() + from, n, out[i].data());
  }

 private:
  view<T, 2> rows_;        // [m, k], or the logits [m, v]
  view<const T, 2> head_;  // [v, k], or none
};

/// Running log sum exp of pieces.
template <class T>
struct running_sum {
  T largest = -std::numeric_limits<T>::infinity(), sum = 0;

  /// What earlier sums are multiplied with when `next` is looked at too.
  T raise(T next) {
    if (!(next > largest)) return 1;
    const T factor = std::exp(largest - next);  // 0 at first
    largest = next;
    sum *= factor;
    return factor;
  }
  /// What is subtracted before exp: the largest so far, unless all so far are excluded.
  T shift() const { return largest == -std::numeric_limits<T>::infinity() ? T(0) : largest; }
  T log_sum_exp() const { return largest + std::log(sum); }
};

}  // namespace detail

/// Adds one teacher's part of the loss.
///   weight [n]   of every position in the loss; 0 leaves it out
///   kl [n]       KL of the positions that are not left out; others are not written (an empty view: not wanted)
///   dhidden, dhead  the gradient is added (empty views: not wanted, both or none)
/// @returns sum of weight times KL
/// @throws contract_violation  the teacher has another vocabulary, or excludes a token that the student allows (its KL is
///                             infinite, and has no gradient), or numbers are not finite; the position is named and
///                             neither gradient is complete
template <execution E, class T, class Teacher>
double distill(E& e, workspace& scratch, const hidden_payload<T>& student, const Teacher& teacher,
               std::type_identity_t<view<const T, 1>> weight /*[n]*/,
               std::type_identity_t<view<T, 1>> kl /*[n]*/,
               std::type_identity_t<view<T, 2>> dhidden /*[n,h]*/,
               std::type_identity_t<view<T, 2>> dhead /*[v,h]*/) {
  // contract
  const index_t positions = student.positions(), vocabulary = student.vocabulary();
  expects_equal(teacher.vocabulary(), vocabulary,
                "distill: tokens of the teacher's vocabulary against the student's");
  expects_equal(teacher.positions(), positions, "distill: positions of the teacher against the student's");
  expects_equal(weight.extent(0), positions, "distill: weights against positions");
  expects(vocabulary >= 1, "distill: the vocabulary is empty");
  expects(!dhidden.data() == !dhead.data(), "distill: dhidden and dhead are wanted both or not at all");

  std::vector<index_t> chosen;  // (2)
  for (index_t n = 0; n < positions; ++n)
    if (weight[n] != 0) chosen.push_back(n);

  double loss = 0;
  for (std::size_t first = 0; first < chosen.size(); first += usize(distill_positions)) {
    workspace::scope here(scratch);
    const auto at =
        std::span(chosen).subspan(first, std::min(chosen.size() - first, usize(distill_positions)));
    const index_t m = static_cast<index_t>(at.size()), widest = std::min(vocabulary, distill_tokens);
    const detail::piecewise_logits<E, T> of_student(scratch, student, at), of_teacher(scratch, teacher, at);
    const auto each_piece = [&](auto&& f) {
      for (index_t from = 0; from < vocabulary; from += widest) {
        workspace::scope piece(scratch);
        const index_t n = std::min(widest, vocabulary - from);
        auto s = scratch.take<T>(m, n), t = scratch.take<T>(m, n);  // [m, v]
        of_student.piece(e, from, s);
        of_teacher.piece(e, from, t);
        f(from, s, t);
      }
    };

    // First pass: both normalisers, and the sum of e^s (s - t).
    std::vector<detail::running_sum<T>> sum_s(at.size()), sum_t(at.size());
    std::vector<T> mean(at.size(), T(0)), divergence(at.size());
    each_piece([&](index_t, view<T, 2> s, view<T, 2> t) {
      const index_t n = s.extent(1);
      kernel::rows<E>::run(e, m, train::token_grain, [&](index_t begin, index_t end) {
        for (index_t i = begin; i < end; ++i) {
          const T *x = s[i].data(), *y = t[i].data();
          auto &ss = sum_s[usize(i)], &st = sum_t[usize(i)];
          mean[usize(i)] *= ss.raise(*std::max_element(x, x + n));
          st.raise(*std::max_element(y, y + n));
          const T top_s = ss.shift(), top_t = st.shift();
          // A token that the student excludes adds 0 whatever the teacher says (divergence.hpp).
          mean[usize(i)] += fold(n, T(0), [=](index_t v) {
            const T p = std::exp(x[v] - top_s);
            return p == 0 ? T(0) : p * (x[v] - y[v]);
          });
          ss.sum += fold(n, T(0), [=](index_t v) { return std::exp(x[v] - top_s); });
          st.sum += fold(n, T(0), [=](index_t v) { return std::exp(y[v] - top_t); });
        }
      });
    });
    for (std::size_t i = 0; i < at.size(); ++i) {
      // Eq. (29)
      divergence[i] = mean[i] / sum_s[i].sum - sum_s[i].log_sum_exp() + sum_t[i].log_sum_exp();
      if (!std::isfinite(divergence[i]))
        throw contract_violation("distill: the divergence at position " + std::to_string(at[i]) + " is " +
                                 std::to_string(double(divergence[i])) +
                                 (std::isnan(divergence[i])
                                      ? ": student or teacher have numbers that are not finite"
                                      : ": the teacher excludes a token that the student allows"));
      if (kl.data()) kl[at[i]] = divergence[i];
      loss += double(weight[at[i]]) * double(divergence[i]);  // Eq. (29)
    }
    if (!dhidden.data()) continue;

    // Second pass: s becomes the gradient of its logits, w e^a ((a - b) - KL).
    auto drows = train::zeros<T>(e, scratch, m, dhidden.extent(1));  // [m, h]
    each_piece([&](index_t from, view<T, 2> s, view<T, 2> t) {
      const index_t n = s.extent(1);
      kernel::rows<E>::run(e, m, train::token_grain, [&](index_t begin, index_t end) {
        for (index_t i = begin; i < end; ++i) {
          const T lse_s = sum_s[usize(i)].log_sum_exp(), lse_t = sum_t[usize(i)].log_sum_exp(),
                  w = weight[at[usize(i)]];
          for (index_t v = 0; v < n; ++v) {
            const T a = s(i, v) - lse_s, b = t(i, v) - lse_t, p = std::exp(a);
            s(i, v) = p == 0 ? T(0) : w * p * ((a - b) - divergence[usize(i)]);
          }
        }
      });
      // einsum: m v, v h -> m h    and    m v, m h -> v h
      train::project_backward(e, s, of_student.rows(), student.head.rows(from, from + n), drows,
                              dhead.rows(from, from + n));
    });
    for (index_t i = 0; i < m; ++i)
      for (index_t h = 0; h < dhidden.extent(1); ++h) dhidden(at[usize(i)], h) += drows(i, h);
  }
  return loss;
}

/// What other systems do instead of the full vocabulary: the estimate from the drawn token alone, as an advantage.
///   A - coefficient (student's - teacher's log-probability of the token)
/// Right on average over the student's draws, but one draw says little: the reason why the paper takes the whole
/// vocabulary.
template <class T>
T sampled_advantage(T advantage, T student_lp, T teacher_lp, double coefficient) {
  return advantage - T(coefficient) * (student_lp - teacher_lp);
}

}  // namespace dsv4::post
