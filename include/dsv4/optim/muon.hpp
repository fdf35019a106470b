// SPDX-License-Identifier: MIT
#pragma once
/// Muon: momentum, then the orthogonalised direction, for one matrix at a time.
/// @paper{DSV4, section 2.4, Algorithm 1}
/// axes     o, i rows and columns of the weight
/// oracle   golden/optimizer, the cases of m and w
/// deviates none; between two stores of T (m, w) the arithmetic is the executor's
///
/// Each logically independent matrix (an expert, a projection) is a call of its own: the direction of one
/// does not depend on another.  Vectors, norms, the embedding and the head take AdamW instead.
/// The update has a root mean square near gamma, AdamW's usual one, so that both share a learning rate.
/// @post (1) the update has norm at most 1.0021 lr gamma sqrt(max(o,i) min(o,i))
///       (2) g = 0 and m = 0 shrink w by 1 - lr decay, and change nothing else
#include "newton_schulz.hpp"

namespace dsv4 {

struct muon_options {
  double momentum = 0.95;  ///< mu
  double decay = 0.1;      ///< lambda, decoupled: multiplied by the learning rate, not by the direction
  double gamma = 0.18;     ///< root mean square of the update of a matrix of full rank
  bool nesterov = true;    ///< look one step of momentum ahead
};

/// One step of Algorithm 1 on w with gradient g and momentum m (zero before the first step).
/// @throws contract_violation on shapes.
template <class T, execution E>
void muon_step(E& e, workspace& scratch, view<const T, 2> g /*[o,i]*/, view<T, 2> m /*[o,i]*/,
               view<T, 2> w /*[o,i]*/, double lr, const muon_options& options = {}) {
  using W = typename kernel::newton_schulz<E>::template number<T>;
  expects(g.extents() == m.extents(), "muon: shapes of gradient and momentum disagree");
  expects(g.extents() == w.extents(), "muon: shapes of gradient and weight disagree");
  const workspace::scope here(scratch);
  auto direction = scratch.take<W>(g.extent(0), g.extent(1));  // [o,i]
  const double mu = options.momentum;
  // M = mu M + G;  O' = HybridNewtonSchulz(mu M + G)
  for (index_t n = 0; n < g.size(); ++n) {
    const double slope = g.data()[n];
    m.data()[n] = T(mu * double(m.data()[n]) + slope);
    direction.data()[n] = options.nesterov ? W(mu * double(m.data()[n]) + slope) : W(m.data()[n]);
  }
  newton_schulz(e, scratch, direction, direction);
  // O = O' sqrt(max(o,i)) gamma;  W = W (1 - lr lambda) - lr O
  const double keep = 1 - lr * options.decay;
  const double rate = lr * options.gamma * std::sqrt(double(std::max(g.extent(0), g.extent(1))));
  for (index_t n = 0; n < w.size(); ++n)
    w.data()[n] = T(double(w.data()[n]) * keep - rate * double(direction.data()[n]));
}

}  // namespace dsv4
