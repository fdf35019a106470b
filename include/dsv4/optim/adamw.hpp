// SPDX-License-Identifier: MIT
#pragma once
/// AdamW: the optimiser of everything that is not a matrix inside a layer: embedding, head, norms, mHC's biases and gates.
/// @paper{DSV4, section 4.2.2}
/// axes     n parameter, of any tensor, flat
/// oracle   golden/optimizer, the adamw cases
/// deviates none; each element is computed in double, with one store of each of m, v, w
///
/// Elements are independent: a long buffer may be cut anywhere and its pieces done in any order.
/// @post (1) the first step moves w by -lr sign(g), whatever the size of g above eps   (2) g = 0 from the
///       first step on shrinks w by 1 - lr decay, and changes nothing else
#include <cmath>

#include "../core/contract.hpp"

namespace dsv4 {

struct adamw_options {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-20;  ///< far below any gradient that counts
  double decay = 0.1;  ///< decoupled: multiplied by the learning rate, not by the direction
};

/// One step; m and v are zero before step 1.  @throws contract_violation on shapes and on step < 1.
template <class T>
void adamw_step(view<const T, 1> g /*[n]*/, view<T, 1> m /*[n]*/, view<T, 1> v /*[n]*/, view<T, 1> w /*[n]*/,
                index_t step /*from 1*/, double lr, const adamw_options& options = {}) {
  expects_equal(m.extent(0), g.extent(0), "adamw: first moments against gradients");
  expects_equal(v.extent(0), g.extent(0), "adamw: second moments against gradients");
  expects_equal(w.extent(0), g.extent(0), "adamw: weights against gradients");
  expects(step >= 1, "adamw: steps count from 1");
  const auto [beta1, beta2, eps, decay] = options;
  // Both moments started at zero, so early means are too small by these factors (bias correction).
  const double mass1 = 1 - std::pow(beta1, double(step)), mass2 = 1 - std::pow(beta2, double(step));
  const double keep = 1 - lr * decay;
  for (index_t n = 0; n < g.extent(0); ++n) {
    const double slope = g[n];
    const double first = beta1 * double(m[n]) + (1 - beta1) * slope;
    const double second = beta2 * double(v[n]) + (1 - beta2) * slope * slope;
    m[n] = T(first);
    v[n] = T(second);
    w[n] = T(double(w[n]) * keep - lr * (first / mass1) / (std::sqrt(second / mass2) + eps));
  }
}

}  // namespace dsv4
