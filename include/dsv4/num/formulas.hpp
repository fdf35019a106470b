// SPDX-License-Identifier: MIT
#pragma once
/// The formulas of one number, one token or one pair, each written once: the specification, the fast executor,
/// training and a device call these, each from loops of its own.
/// @paper{DSV4, Eq. (3), (5)-(7), (11), (12), (22), (23), sections 2.1 and 4.2.3}
/// axes     n = i = j stream
/// oracle   the operators that use them; reference_tests/compile/check_device_formulas.py (that a device can call them)
/// deviates none
///
/// W is the executor's wide type, float or double.  Sums are the caller's: their order belongs to the executor.
#include <cmath>

#include "minifloat.hpp"

namespace dsv4 {

// std::min, std::max and std::clamp, which are no functions of a device; the same comparisons, so the same answer for
// NaN and for zeros of both signs.
template <class T>
DSV4_HOST_DEVICE constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
DSV4_HOST_DEVICE constexpr T larger(T a, T b) {
  return a < b ? b : a;
}
template <class T>
DSV4_HOST_DEVICE constexpr T clamped(T x, T low, T high) {
  return x < low ? low : high < x ? high : x;
}

/// sigmoid(x) from e^-x: who has a row of exponentials needs no other.
template <class W>
DSV4_HOST_DEVICE W sigmoid_of_exp(W exp_of_minus_x) {
  return 1 / (1 + exp_of_minus_x);
}
template <class W>
DSV4_HOST_DEVICE W sigmoid(W x) {
  return sigmoid_of_exp(std::exp(-x));
}
/// d sigmoid / dx at a place where sigmoid is s; and a gradient's way through it, multiplied from the left.
template <class W>
DSV4_HOST_DEVICE W sigmoid_slope(W s) {
  return s * (1 - s);
}
template <class W>
DSV4_HOST_DEVICE W through_sigmoid(W gradient, W s) {
  return gradient * s * (1 - s);
}

/// x sigmoid(x), with one division.
template <class W>
DSV4_HOST_DEVICE W silu(W x) {
  return x / (1 + std::exp(-x));
}

/// softplus(x) = log(1 + e^x), x itself above 20 (where the difference is below 2e-9; of the released code).
template <class W>
DSV4_HOST_DEVICE W softplus(W x) {
  constexpr W linear_above = 20;
  return x > linear_above ? x : std::log1p(std::exp(x));
}

/// Affinity of a token and an expert from the gate's logit.
template <class W>
DSV4_HOST_DEVICE W gate_affinity(W logit) {
  return std::sqrt(softplus(logit));
}
/// Its slope; the affinity is 0 only where softplus underflows, and its slope with it.
template <class W>
DSV4_HOST_DEVICE W gate_affinity_slope(W logit, W affinity) {
  return affinity > 0 ? sigmoid(logit) / (2 * affinity) : W(0);
}
/// Its weight among the chosen, whose affinities have this sum.
template <class W>
DSV4_HOST_DEVICE W gate_weight(W affinity, W sum, W scaling) {
  return affinity / sum * scaling;
}

/// The clamps of SwiGLU: the gate branch above only, the linear branch on both sides.
template <class W>
DSV4_HOST_DEVICE W swiglu_gate(W a, W limit) {
  return smaller(a, limit);
}
template <class W>
DSV4_HOST_DEVICE W swiglu_up(W u, W limit) {
  return clamped(u, -limit, limit);
}
/// silu(min(a, limit)) clamp(u, +-limit) weight.
template <class W>
DSV4_HOST_DEVICE W swiglu_value(W a, W u, W limit, W weight) {
  return silu(swiglu_gate(a, limit)) * swiglu_up(u, limit) * weight;
}

/// 1 / sqrt(mean + eps) of n squares with this sum.
template <class W>
DSV4_HOST_DEVICE W inverse_rms(W squares, W n, W eps) {
  return 1 / std::sqrt(squares / n + eps);
}

// mHC: what a packed mix is to one stream.  `alpha` is the learned scale, `base` the static part.
template <class W>
DSV4_HOST_DEVICE W hyper_logit(W mix, W alpha, W base) {
  return mix * alpha + base;
}
/// The weight with which a stream is read.
template <class W>
DSV4_HOST_DEVICE W hyper_pre(W mix, W alpha, W base, W eps) {
  return sigmoid(hyper_logit(mix, alpha, base)) + eps;  // Eq. (3), (6)
}
/// The weight with which it is written.
template <class W>
DSV4_HOST_DEVICE W hyper_post(W mix, W alpha, W base) {
  return 2 * sigmoid(hyper_logit(mix, alpha, base));  // Eq. (5), (7)
}
/// Angle of a rotary pair, rounded to float (at a million its rounding matters).
DSV4_HOST_DEVICE inline float rotary_angle(std::int64_t position, float inv_freq) {
  return static_cast<float>(position) * inv_freq;
}
/// One rotary pair turned: (a + ib) (c + is).
template <class W>
struct rotated_pair {
  W even, odd;
};
template <class W>
DSV4_HOST_DEVICE rotated_pair<W> rotate_pair(W a, W b, W c, W s) {
  // Not a c - b s: GCC 12 fuses that pair of lines (vfmaddsub), whatever -ffp-contract says.
  return {a * c + b * -s, a * s + b * c};
}

/// The softmax-weighted mean of some slots.
template <class W>
struct slot_mean {
  W largest, weights, mean;  // of the scores; sum of e^(score - largest); the mean
  /// Of a slot with this score.
  DSV4_HOST_DEVICE W weight(W score) const { return std::exp(score - largest); }
};
/// `slots(f)` calls f(score, value) for every slot, twice in the same order.
template <class W, class Slots>
DSV4_HOST_DEVICE slot_mean<W> softmax_mean(const Slots& slots) {
  slot_mean<W> m{-INFINITY, 0, 0};
  slots([&](W score, W) { m.largest = larger(m.largest, score); });
  W sum = 0;
  slots([&](W score, W value) {
    const W weight = m.weight(score);  // Eq. (11), (22)
    sum += weight * value;
    m.weights += weight;
  });
  m.mean = sum / m.weights;  // Eq. (12), (23)
  return m;
}

}  // namespace dsv4
