// SPDX-License-Identifier: MIT
#pragma once
/// mHC, forward and backward: how n residual streams are read, carried over and written.
/// @paper{DSV4, Eq. (1)-(8)}
/// axes     t token · n = i = j stream · d channel · m = (2 + n) n mixes: pre[n], post[n], comb[n n]
/// oracle   mhc/*.hpp (forward); finite differences; golden/transformers/seed0/grads.safetensors
/// deviates none
///
///   read    x = vec(h);  mixes = (fn x) r,  r = (mean x^2 + eps)^-1/2;  y = sum_j pre_j h_j
///   write   h'_j = post_j F + sum_i comb_ij h_i
/// and back, given dh':
///   dF = sum_j post_j dh'_j     dpost_j = <F, dh'_j>     dcomb_ij = <h_i, dh'_j>     dh_i = sum_j comb_ij dh'_j
/// then, given dy:
///   dpre_j = <dy, h_j>     dh_j += pre_j dy     and through the mixes:
///   dx += fn^T (dmixes r) - x r^2 / (n D) <dmixes, mixes>
#include <array>
#include <vector>

#include "../core/config.hpp"
#include "parameters.hpp"
#include "rms_norm.hpp"
#include "sinkhorn.hpp"

namespace dsv4::train {

/// What the reading side of a half block keeps for its writing side and for the way back.
template <class T>
struct hyper_state {
  view<T, 1> r;      // [t]
  view<T, 2> mixes;  // [t, m]
  view<T, 2> pre;    // [t, n]
  view<T, 2> post;   // [t, n]
  view<T, 3> comb;   // [t, n, n]

  static hyper_state take(workspace& s, index t, index n) {
    return {s.take<T>(t), s.take<T>(t, (2 + n) * n), s.take<T>(t, n), s.take<T>(t, n), s.take<T>(t, n, n)};
  }
};

/// mixes [t, m] = (fn x) r, of all channels of all streams.
// einsum: t c, m c -> t m
template <execution E, class T>
void hyper_mixes(E& e, const config& c, view<T, 3> h /*[t,n,d]*/, view<const T, 2> fn /*[m,n d]*/, view<T, 1> r /*[t]*/,
                 view<T, 2> mixes /*[t,m]*/) {
  const index tokens = h.extent(0), width = h.row_size();
  const auto x = h.reshape(tokens, width);
  project(e, x, fn, mixes);
  kernel::rows<E>::run(e, tokens, token_grain, [&](index begin, index end) {
    for (index t = begin; t < end; ++t) {
      r[t] = rms_factor<T>(x[t].data(), width, c.rms_norm_eps);
      for (T& m : mixes[t]) m *= r[t];
    }
  });
}

/// y [t, d] = sum_j pre_j h_j.
// einsum: t n, t n d -> t d
template <execution E, class T>
void collapse(E& e, view<T, 2> pre /*[t,n]*/, view<T, 3> h /*[t,n,d]*/, view<T, 2> y /*[t,d]*/) {
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index begin, index end) {
    for (index t = begin; t < end; ++t)
      for (index j = 0; j < h.extent(1); ++j) {
        const T weight = pre(t, j);
        const T* from = h[t][j].data();
        T* to = y[t].data();
        if (j == 0) std::fill(to, to + h.extent(2), T(0));
        for (index d = 0; d < h.extent(2); ++d) to[d] += weight * from[d];
      }
  });
}

/// Reads a half block's input y from the streams.
template <execution E, class T>
void hyper_read(E& e, const config& c, view<T, 3> h /*[t,n,d]*/, const hyper_parameters<const T>& w,
                const hyper_state<T>& s, view<T, 2> y /*[t,d]*/) {
  const index n = h.extent(1);
  hyper_mixes(e, c, h, w.fn, s.r, s.mixes);
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index begin, index end) {
    for (index t = begin; t < end; ++t) {
      for (index j = 0; j < n; ++j) {
        s.pre(t, j) = sigmoid(s.mixes(t, j) * w.scale[0] + w.base[j]) + T(c.hc_eps);             // Eq. (6)
        s.post(t, j) = 2 * sigmoid(s.mixes(t, n + j) * w.scale[1] + w.base[n + j]);             // Eq. (7)
      }
      for (index at = 0; at < n * n; ++at)
        s.comb[t].data()[at] = s.mixes(t, 2 * n + at) * w.scale[2] + w.base[2 * n + at];        // Eq. (4)
      dsv4::sinkhorn(s.comb[t], c.hc_sinkhorn_iters, T(c.hc_eps));                              // Eq. (8)
    }
  });
  collapse(e, s.pre, h, y);
}

/// next [t, n, d] = post F + comb^T h.
// einsum: t j, t d -> t j d  plus  t i j, t i d -> t j d
template <execution E, class T>
void hyper_write(E& e, view<T, 3> h /*[t,n,d]*/, view<T, 2> f /*[t,d]*/, const hyper_state<T>& s,
                 view<T, 3> next /*[t,n,d]*/) {
  const index n = h.extent(1);
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index begin, index end) {
    for (index t = begin; t < end; ++t)
      for (index j = 0; j < n; ++j) {
        T* to = next[t][j].data();
        const T* from = f[t].data();
        const T share = s.post(t, j);
        for (index d = 0; d < h.extent(2); ++d) to[d] = share * from[d];
        for (index i = 0; i < n; ++i) {
          const T weight = s.comb(t, i, j);
          const T* stream = h[t][i].data();
          for (index d = 0; d < h.extent(2); ++d) to[d] += weight * stream[d];
        }
      }
  });
}

/// Gradients of what hyper_write took: dh (set), df (set), and dpost, dcomb in `ds`.
template <execution E, class T>
void hyper_write_backward(E& e, view<T, 3> dnext /*[t,n,d]*/, view<T, 3> h /*[t,n,d]*/, view<T, 2> f /*[t,d]*/,
                          const hyper_state<T>& s, view<T, 3> dh /*[t,n,d]*/, view<T, 2> df /*[t,d]*/,
                          const hyper_state<T>& ds) {
  const index n = h.extent(1), width = h.extent(2);
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index begin, index end) {
    for (index t = begin; t < end; ++t) {
      std::fill(df[t].begin(), df[t].end(), T(0));
      std::fill(dh[t].begin(), dh[t].end(), T(0));
      for (index j = 0; j < n; ++j) {
        const T* g = dnext[t][j].data();
        ds.post(t, j) = dot<T>(f[t].data(), g, width);
        T* to = df[t].data();
        const T share = s.post(t, j);
        for (index d = 0; d < width; ++d) to[d] += share * g[d];
        for (index i = 0; i < n; ++i) {
          ds.comb(t, i, j) = dot<T>(h[t][i].data(), g, width);
          const T weight = s.comb(t, i, j);
          T* stream = dh[t][i].data();
          for (index d = 0; d < width; ++d) stream[d] += weight * g[d];
        }
      }
    }
  });
}

/// dpre_j = <dy, h_j> into ds.pre, dh_j += pre_j dy.
template <execution E, class T>
void collapse_backward(E& e, view<T, 2> dy /*[t,d]*/, view<T, 3> h /*[t,n,d]*/, view<T, 2> pre /*[t,n]*/,
                       view<T, 3> dh /*[t,n,d]*/, view<T, 2> dpre /*[t,n]*/) {
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index begin, index end) {
    for (index t = begin; t < end; ++t)
      for (index j = 0; j < h.extent(1); ++j) {
        const T *g = dy[t].data(), *stream = h[t][j].data();
        T* to = dh[t][j].data();
        const T weight = pre(t, j);
        dpre(t, j) = dot<T>(g, stream, h.extent(2));
        for (index d = 0; d < h.extent(2); ++d) to[d] += weight * g[d];
      }
  });
}

/// From the gradient of the logits z = mixes * scale + base to those of mixes (in place), scale and base.
/// `part[m]`: which of the scales mix m is multiplied by.
template <class T, class Part>
void affine_backward(view<T, 2> dz /*[t,m] -> dmixes*/, view<T, 2> mixes /*[t,m]*/, view<const T, 1> scale,
                     view<T, 1> dscale, view<T, 1> dbase /*[m]*/, Part part) {
  // The terms of different tokens nearly cancel: summed in double, whatever T is.
  workspace::scope here(thread_scratch());
  auto base = zeros<double>(thread_scratch(), dz.extent(1)), by_scale = zeros<double>(thread_scratch(), dz.extent(1));  // [m]
  for (index t = 0; t < dz.extent(0); ++t) {
    T* g = dz[t].data();
    const T* mix = mixes[t].data();
    for (index m = 0; m < dz.extent(1); ++m) {
      base[m] += double(g[m]);
      by_scale[m] += double(g[m]) * double(mix[m]);
      g[m] *= scale[part(m)];
    }
  }
  for (index m = 0; m < dz.extent(1); ++m) {
    dbase[m] += T(base[m]);
    dscale[part(m)] += T(by_scale[m]);
  }
}

/// Through mixes = (fn x) r: dx += fn^T (dmixes r) - x r^2 / (n D) <dmixes, mixes>, dfn += (dmixes r)^T x.
/// dmixes is overwritten.
template <execution E, class T>
void hyper_mixes_backward(E& e, view<T, 2> dmixes /*[t,m]*/, view<T, 2> mixes /*[t,m]*/, view<T, 1> r /*[t]*/,
                          view<T, 3> h /*[t,n,d]*/, view<const T, 2> fn /*[m,n d]*/, view<T, 3> dh /*[t,n,d]*/,
                          view<T, 2> dfn /*[m,n d]*/) {
  const index tokens = h.extent(0), width = h.row_size();
  const auto x = h.reshape(tokens, width), dx = dh.reshape(tokens, width);
  kernel::rows<E>::run(e, tokens, token_grain, [&](index begin, index end) {
    for (index t = begin; t < end; ++t) {
      const T pull = dot<T>(dmixes[t].data(), mixes[t].data(), mixes.extent(1)) * r[t] * r[t] / T(width);
      for (T& m : dmixes[t]) m *= r[t];
      const T* from = x[t].data();
      T* to = dx[t].data();
      for (index d = 0; d < width; ++d) to[d] -= pull * from[d];
    }
  });
  project_backward(e, dmixes, x, fn, dx, dfn);
}

/// Gradients of what hyper_read took.  ds.post and ds.comb come from hyper_write_backward; dh is added to.
template <execution E, class T>
void hyper_read_backward(E& e, const config& c, view<T, 2> dy /*[t,d]*/, view<T, 3> h /*[t,n,d]*/,
                         const hyper_parameters<const T>& w, const hyper_state<T>& s, const hyper_state<T>& ds,
                         view<T, 3> dh /*[t,n,d]*/, const hyper_parameters<T>& dw) {
  const index n = h.extent(1);
  collapse_backward(e, dy, h, s.pre, dh, ds.pre);

  // dmixes holds the gradient of z = mixes * scale + base first.
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index begin, index end) {
    workspace::scope here(thread_scratch());
    auto logits = thread_scratch().take<T>(n, n);  // [i, j]
    for (index t = begin; t < end; ++t) {
      for (index j = 0; j < n; ++j) {
        // d sigmoid = s (1 - s)
        const T a = s.pre(t, j) - T(c.hc_eps), b = s.post(t, j) / 2;
        ds.mixes(t, j) = ds.pre(t, j) * a * (1 - a);
        ds.mixes(t, n + j) = ds.post(t, j) * 2 * b * (1 - b);
      }
      for (index at = 0; at < n * n; ++at)
        logits.data()[at] = s.mixes(t, 2 * n + at) * w.scale[2] + w.base[2 * n + at];
      sinkhorn_backward(logits, c.hc_sinkhorn_iters, T(c.hc_eps), ds.comb[t]);
      for (index at = 0; at < n * n; ++at) ds.mixes(t, 2 * n + at) = ds.comb[t].data()[at];
    }
  });
  affine_backward(ds.mixes, s.mixes, w.scale, dw.scale, dw.base, [n](index m) { return m < n ? 0 : m < 2 * n ? 1 : 2; });
  hyper_mixes_backward(e, ds.mixes, s.mixes, s.r, h, w.fn, dh, dw.fn);
}

}  // namespace dsv4::train
