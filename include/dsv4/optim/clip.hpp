// SPDX-License-Identifier: MIT
#pragma once
/// Clipping of gradients by the norm of all of them together.
/// @paper{DSV3, section 4.2}
/// axes     n element of a buffer, flat
/// oracle   closed form
/// deviates the DeepSeek-V4 report names no clipping; V3 clips at 1.0
///
/// The order of the sum is fixed: fold's within a buffer, then buffer after buffer as listed.  Who adds up which
/// buffer does not matter, so threads cannot change the norm.
/// @post (1) norm <= max_norm: nothing changes   (2) else the norm becomes `max_norm`, up to rounding
///       (3) a norm that is not finite changes nothing: the caller sees it and drops the step
#include <cmath>
#include <span>

#include "../core/fold.hpp"

namespace dsv4 {

/// sum_n g[n]^2 in double.
template <class T>
double squared_norm(view<T, 1> g /*[n]*/) {
  return fold(g.size(), 0.0, [=](index_t n) { return double(g.data()[n]) * double(g.data()[n]); });
}

/// The common norm of several buffers, from the squared_norm of each in the buffers' order.
inline double global_norm(std::span<const double> squares) {
  double sum = 0;
  for (const double s : squares) sum += s;
  return std::sqrt(sum);
}
template <class T>
double global_norm(std::span<const view<T, 1>> buffers) {
  double sum = 0;
  for (const auto& g : buffers) sum += squared_norm(g);
  return std::sqrt(sum);
}

/// What gradients of this norm are multiplied by: 1 unless the norm is finite and above `max_norm`.
inline double clip_factor(double norm, double max_norm) {
  return norm > max_norm && std::isfinite(norm) ? max_norm / norm : 1;
}
template <class T>
void scale_gradients(view<T, 1> g /*[n]*/, double factor) {
  if (factor == 1) return;
  for (T& v : g) v = T(double(v) * factor);
}

/// Scales all buffers so that their common norm is at most `max_norm`.  @return the norm before.
template <class T>
double clip_gradients(std::span<const view<T, 1>> buffers, double max_norm) {
  const double norm = global_norm(buffers), factor = clip_factor(norm, max_norm);
  for (const auto& g : buffers) scale_gradients(g, factor);
  return norm;
}

}  // namespace dsv4
