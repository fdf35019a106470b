// SPDX-License-Identifier: MIT
#pragma once
/// mHC, reading side: n residual streams mix into the input of a half block.
/// @paper{DSV4, Eq. (1), (3)-(5)}
/// axes     t token · n = j stream · d channel · m = (2 + n) n mixes
/// oracle   model.py, Block.hc_pre
/// deviates none
///
/// The norm of the flattened streams has no weight; its factor r multiplies the product, not the input.
#include <cmath>

#include "../core/call.hpp"
#include "../op/linear.hpp"
#include "sinkhorn.hpp"
#include "weights.hpp"

namespace dsv4 {

/// The weights of a half block's streams: pre to read with, post and comb to write with.
template <class W, class Mem = mem::host>
struct hyper_mix {
  view<W, 2, Mem> post;   // [t, n]
  view<W, 3, Mem> comb;   // [t, n, n]
  view<W, 2, Mem> pre{};  // [t, n]
};
/// How the raw mixes become those weights.
template <class Mem = mem::host>
struct hyper_split {
  view<const float, 1, Mem> scale, base;  // [3] and [m]
  index_t iterations;                     // of Sinkhorn
  double eps;
};

namespace kernel {
/// run(e, x [t, n d], fn [m, n d], eps, mixes [t, m]): mixes = (fn . x) r, wide.
template <execution E>
struct hc_mixes {
  static_assert(has_kernel<E>, "hc_mixes: no kernel for this executor");
};
/// run(e, mixes [t, m], how, mix): pre, post and comb of every token.
template <execution E>
struct hc_split {
  static_assert(has_kernel<E>, "hc_split: no kernel for this executor");
};
/// run(e, pre [t, n], h [t, n, d], y [t, d]): y = sum_j pre[j] h[j], one store.
template <execution E>
struct hc_collapse {
  static_assert(has_kernel<E>, "hc_collapse: no kernel for this executor");
};

template <>
struct hc_mixes<exec::ref> {
  // einsum: t c, m c -> t m   (c = all channels of all streams)
  template <class A>
  static void run(exec::ref& e, view<const A, 2> x, const weight_matrix& fn, double eps,
                  view<double, 2> mixes) {
    linear<exec::ref>::run(e, x, fn, mixes);  // Eq. (3), (4), (5)
    for (index_t t = 0; t < x.extent(0); ++t) {
      double squares = 0;
      for (index_t c = 0; c < x.extent(1); ++c) squares += widen<double>(x(t, c)) * widen<double>(x(t, c));
      const double r = inverse_rms(squares, double(x.extent(1)), eps);
      for (index_t m = 0; m < mixes.extent(1); ++m) mixes(t, m) *= r;  // Eq. (3), (4), (5)
    }
  }
};

template <>
struct hc_split<exec::ref> {
  static void run(exec::ref&, view<const double, 2> mixes, const hyper_split<>& how,
                  const hyper_mix<double>& mix) {
    for (index_t t = 0; t < mixes.extent(0); ++t)
      split_mixes<double>(mixes[t], how.scale, how.base, how.iterations, how.eps, mix.pre[t], mix.post[t],
                          mix.comb[t]);
  }
};

template <>
struct hc_collapse<exec::ref> {
  // einsum: t n, t n d -> t d
  template <class A>
  static void run(exec::ref&, view<const double, 2> pre, view<const A, 3> h, view<A, 2> y) {
    for (index_t t = 0; t < h.extent(0); ++t)
      for (index_t d = 0; d < h.extent(2); ++d) {
        double sum = 0;
        for (index_t j = 0; j < h.extent(1); ++j) sum += pre(t, j) * widen<double>(h(t, j, d));  // Eq. (1)
        y(t, d) = store<A>(sum);
      }
  }
};
}  // namespace kernel

/// The sites of one half block: attention or feed-forward.
struct hyper_sites {
  site mixes, pre, post, comb, y;
};
inline constexpr hyper_sites hc_attn_sites{site::hc_attn_mixes, site::hc_attn_pre, site::hc_attn_post,
                                           site::hc_attn_comb, site::hc_attn_y};
inline constexpr hyper_sites hc_ffn_sites{site::hc_ffn_mixes, site::hc_ffn_pre, site::hc_ffn_post,
                                          site::hc_ffn_comb, site::hc_ffn_y};

/// y = sum_j pre_j h_j, and the post and comb to write with.  Views live in the call's scratch.
template <execution E, class A, observer Tap>
hyper_mix<wide_t<E>, mem_of<E>> hc_pre(const call_context<E, Tap>& call, const hyper_sites& names,
                                       view<A, 3, mem_of<E>> h /*[t,n,d]*/,
                                       const hyper_connection_weights<storage_of<E>>& w,
                                       view<A, 2, mem_of<E>> y /*[t,d]*/) {
  using W = wide_t<E>;
  using memory = mem_of<E>;
  const auto& [e, scratch, host, c, tap] = call;
  const index_t t = h.extent(0), n = h.extent(1), d = h.extent(2);
  expects_equal(w.fn.rows, (2 + n) * n, "hc_pre: rows of fn");
  expects_equal(w.fn.cols, n * d, "hc_pre: columns of fn");
  const hyper_mix<W, memory> mix{take<W>(scratch, t, n), take<W>(scratch, t, n, n), take<W>(scratch, t, n)};
  auto mixes = take<W>(scratch, t, w.fn.rows);  // [t, m]

  kernel::hc_mixes<E>::run(e, view<const A, 2, memory>(h.reshape(t, n * d)), w.fn, c.rms_norm_eps, mixes);
  tap.rows(names.mixes, mixes);
  kernel::hc_split<E>::run(e, view<const W, 2, memory>(mixes),
                           hyper_split<memory>{w.scale, w.base, c.hc_sinkhorn_iters, c.hc_eps}, mix);
  tap.rows(names.pre, mix.pre);
  tap.rows(names.post, mix.post);
  tap.rows(names.comb, mix.comb);
  kernel::hc_collapse<E>::run(e, view<const W, 2, memory>(mix.pre), view<const A, 3, memory>(h), y);
  tap.rows(names.y, y);
  return mix;
}

}  // namespace dsv4
