// SPDX-License-Identifier: MIT
#pragma once
/// mHC, writing side: the half block's output is spread over the streams, the streams carried over.
/// @paper{DSV4, Eq. (1)}
/// axes     t token · n = i = j stream · d channel
/// oracle   model.py, Block.hc_post
/// deviates none
///
/// h'[j] = post[j] out + sum_i comb[i][j] h[i]: comb is used TRANSPOSED (the paper's B = comb^T).
#include "../core/contract.hpp"
#include "pre.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, out [t, d], post [t, n], comb [t, n, n], h [t, n, d]), h in place.
template <execution E>
struct hc_post {
  static_assert(has_kernel<E>, "hc_post: no kernel for this executor");
};

template <>
struct hc_post<exec::ref> {
  // einsum: t j, t d -> t j d  plus  t i j, t i d -> t j d
  template <class A>
  static void run(exec::ref&, view<const A, 2> out, view<const double, 2> post, view<const double, 3> comb,
                  view<A, 3> h) {
    const index_t n = h.extent(1);
    tensor<A, 1> next(n);
    for (index_t t = 0; t < h.extent(0); ++t)
      for (index_t d = 0; d < h.extent(2); ++d) {
        for (index_t j = 0; j < n; ++j) {
          double sum = post(t, j) * widen<double>(out(t, d));                                // Eq. (1)
          for (index_t i = 0; i < n; ++i) sum += comb(t, i, j) * widen<double>(h(t, i, d));  // Eq. (1)
          next[j] = store<A>(sum);
        }
        for (index_t j = 0; j < n; ++j) h(t, j, d) = next[j];
      }
  }
};
}  // namespace kernel

/// The streams after a half block, in place.
template <execution E, class A>
void hc_post(E& e, view<A, 2, mem_of<E>> out /*[t,d]*/, const hyper_mix<wide_t<E>, mem_of<E>>& mix,
             view<A, 3, mem_of<E>> h /*[t,n,d]*/) {
  expects_equal(out.extent(1), h.extent(2), "hc_post: channels of out against h");
  kernel::hc_post<E>::run(e, view<const A, 2, mem_of<E>>(out), view<const wide_t<E>, 2, mem_of<E>>(mix.post),
                          view<const wide_t<E>, 3, mem_of<E>>(mix.comb), h);
}

}  // namespace dsv4
