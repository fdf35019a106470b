// SPDX-License-Identifier: MIT
#pragma once
/// Sinkhorn: makes the carry-over matrix of mHC (nearly) doubly stochastic, and the split of the packed
/// mixes into the weights to read (pre), to write (post) and to carry over (comb).
/// @paper{DSV4, Eq. (2)-(8)}
/// axes     t token · n = i = j stream · m = (2 + n) n packed mixes: pre[n], post[n], comb[n n]
/// oracle   kernel.py, hc_split_sinkhorn
/// deviates none
///
/// The paper's B is the TRANSPOSE of comb: softmax over j is its column step, the division by the sum
/// over i its row step (Eq. 8), up to the eps of the released code.
/// @post (1) pre > 0   (2) 0 <= post <= 2   (3) for all j: sum_i comb[i][j] = 1 up to eps
#include <cmath>

#include "../core/view.hpp"
#include "../num/formulas.hpp"

namespace dsv4 {

/// comb[i][j] of one token in place, from logits to the balanced matrix.  W: arithmetic type.
template <class W>
DSV4_HOST_DEVICE void sinkhorn(view<W, 2> comb /*[i,j]*/, index_t iterations, W eps) {
  const index_t n = comb.extent(0);
  const auto divide_by_sum_over_i = [&] {
    for (index_t j = 0; j < n; ++j) {
      W sum = 0;
      for (index_t i = 0; i < n; ++i) sum += comb(i, j);
      for (index_t i = 0; i < n; ++i) comb(i, j) /= sum + eps;
    }
  };
  const auto divide_by_sum_over_j = [&] {
    for (index_t i = 0; i < n; ++i) {
      W sum = 0;
      for (index_t j = 0; j < n; ++j) sum += comb(i, j);
      for (index_t j = 0; j < n; ++j) comb(i, j) /= sum + eps;
    }
  };
  // Softmax over j, with eps added so that no entry is 0.  Then the sums over i once, and (iterations - 1) times the
  // sums over j and over i.
  for (index_t i = 0; i < n; ++i) {
    W largest = comb(i, 0), sum = 0;
    for (index_t j = 1; j < n; ++j) largest = larger(largest, comb(i, j));
    for (index_t j = 0; j < n; ++j) sum += comb(i, j) = std::exp(comb(i, j) - largest);  // Eq. (8)
    for (index_t j = 0; j < n; ++j) comb(i, j) = comb(i, j) / sum + eps;                 // Eq. (8)
  }
  divide_by_sum_over_i();  // Eq. (8)
  for (index_t k = 1; k < iterations; ++k) {
    divide_by_sum_over_j();  // Eq. (8)
    divide_by_sum_over_i();  // Eq. (8)
  }
}

/// One token's mixes become pre, post and comb.  `scale` holds the alpha of each of the three, `base` their static part.
template <class W>
DSV4_HOST_DEVICE void split_mixes(view<const W, 1> mixes /*[m]*/, view<const float, 1> scale /*[3]*/,
                                  view<const float, 1> base /*[m]*/, index_t iterations, double eps,
                                  view<W, 1> pre /*[n]*/, view<W, 1> post /*[n]*/,
                                  view<W, 2> comb /*[n,n]*/) {
  const index_t n = pre.extent(0);
  for (index_t j = 0; j < n; ++j) {
    pre[j] = hyper_pre(mixes[j], W(scale[0]), W(base[j]), W(eps));    // Eq. (3), (6)
    post[j] = hyper_post(mixes[n + j], W(scale[1]), W(base[n + j]));  // Eq. (5), (7)
  }
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) {
      const index_t at = 2 * n + n * i + j;
      comb(i, j) = hyper_logit(mixes[at], W(scale[2]), W(base[at]));  // Eq. (4)
    }
  sinkhorn(comb, iterations, W(eps));  // Eq. (2)
}

}  // namespace dsv4
