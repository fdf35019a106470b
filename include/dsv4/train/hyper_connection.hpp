// SPDX-License-Identifier: MIT
#pragma once
/// mHC, forward and backward: how n residual streams are read, carried over and written.
/// @paper{DSV4, Eq. (1)-(7)}
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
#include <type_traits>

#include "../core/config.hpp"
#include "parameters.hpp"
#include "rms_norm.hpp"
#include "sinkhorn.hpp"

namespace dsv4::train {

/// What the reading side of a half block keeps for its writing side and for the way back.
template <class T>
struct hyper_saved {
  view<T, 1> r;      // [t]
  view<T, 2> mixes;  // [t, m]
  view<T, 2> pre;    // [t, n]
  view<T, 2> post;   // [t, n]
  view<T, 3> comb;   // [t, n, n]

  static hyper_saved take(workspace& s, index_t t, index_t n) {
    return {s.take<T>(t), s.take<T>(t, (2 + n) * n), s.take<T>(t, n), s.take<T>(t, n), s.take<T>(t, n, n)};
  }
};

/// mixes [t, m] = (fn x) r, of all channels of all streams.
// einsum: t c, m c -> t m
template <execution E, class T>
void hyper_mixes(E& e, const config& c, view<T, 3> h /*[t,n,d]*/, view<const T, 2> fn /*[m,n d]*/,
                 view<T, 1> r /*[t]*/, view<T, 2> mixes /*[t,m]*/) {
  const index_t tokens = h.extent(0), width = h.row_size();
  const auto x = h.reshape(tokens, width);
  project(e, x, fn, mixes);  // Eq. (3), (4), (5)
  kernel::rows<E>::run(e, tokens, token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) {
      r[t] = rms_factor<T>(x[t].data(), width, c.rms_norm_eps);
      for (T& m : mixes[t]) m *= r[t];  // Eq. (3), (4), (5)
    }
  });
}

/// Calls f(n).  If n is the published number of streams it is passed as a constant, so that loops over it unroll.
template <class F>
void with_streams(index_t n, F f) {
  constexpr index_t published = 4;  // hc_mult of Flash and Pro
  if (n == published)
    f(std::integral_constant<index_t, published>{});
  else
    f(n);
}

/// y [t, d] = sum_j pre_j h_j.
// einsum: t n, t n d -> t d
template <execution E, class T>
void collapse(E& e, view<T, 2> pre /*[t,n]*/, view<T, 3> h /*[t,n,d]*/, view<T, 2> y /*[t,d]*/) {
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index_t begin, index_t end) {
    with_streams(h.extent(1), [&](auto n) {
      const index_t width = h.extent(2);
      for (index_t t = begin; t < end; ++t) {
        const T *weight = pre[t].data(), *from = h[t].data();
        T* to = y[t].data();
        for (index_t d = 0; d < width; ++d) {
          T sum = 0;
          for (index_t j = 0; j < n; ++j) sum += weight[j] * from[j * width + d];  // Eq. (1)
          to[d] = sum;
        }
      }
    });
  });
}

/// The eight tokens from t on (before `end`; the last one repeated) of a sinkhorn_steps: their logits.
template <class T>
void comb_logits(const hyper_parameters<const T>& w, const hyper_saved<T>& s, index_t t, index_t end,
                 view<T, 3> logits /*[i,j,l]*/) {
  const index_t n = logits.extent(0);
  for (index_t l = 0; l < sinkhorn_lanes; ++l) {
    const T* mixes = s.mixes[std::min(t + l, end - 1)].data() + 2 * n;
    for (index_t at = 0; at < n * n; ++at)
      logits.data()[at * sinkhorn_lanes + l] =
          hyper_logit(mixes[at], w.scale[2], w.base[2 * n + at]);  // Eq. (4)
  }
}

/// Reads a half block's input y from the streams.
template <execution E, class T>
void hyper_read(E& e, const config& c, view<T, 3> h /*[t,n,d]*/, const hyper_parameters<const T>& w,
                const hyper_saved<T>& s, view<T, 2> y /*[t,d]*/) {
  const index_t n = h.extent(1);
  hyper_mixes(e, c, h, w.fn, s.r, s.mixes);
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) {
      for (index_t j = 0; j < n; ++j) {
        s.pre(t, j) = hyper_pre(s.mixes(t, j), w.scale[0], w.base[j], T(c.hc_eps));  // Eq. (3), (6)
        s.post(t, j) = hyper_post(s.mixes(t, n + j), w.scale[1], w.base[n + j]);     // Eq. (5), (7)
      }
    }
    workspace::scope here(thread_scratch());
    const auto steps = sinkhorn_steps<T>::take(thread_scratch(), n, c.hc_sinkhorn_iters);
    for (index_t t = begin; t < end; t += sinkhorn_lanes) {
      comb_logits(w, s, t, end, steps.softmax);
      steps.forward(e, T(c.hc_eps));  // Eq. (2)
      for (index_t l = 0; l < std::min(sinkhorn_lanes, end - t); ++l)
        for (index_t at = 0; at < n * n; ++at)
          s.comb[t + l].data()[at] = steps.result().data()[at * sinkhorn_lanes + l];
    }
  });
  collapse(e, s.pre, h, y);
}

/// next [t, n, d] = post F + comb^T h.
// einsum: t j, t d -> t j d  plus  t i j, t i d -> t j d
template <execution E, class T>
void hyper_write(E& e, view<T, 3> h /*[t,n,d]*/, view<T, 2> f /*[t,d]*/, const hyper_saved<T>& s,
                 view<T, 3> next /*[t,n,d]*/) {
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index_t begin, index_t end) {
    with_streams(h.extent(1), [&](auto n) {
      const index_t width = h.extent(2);
      for (index_t t = begin; t < end; ++t)
        for (index_t j = 0; j < n; ++j) {
          T* to = next[t][j].data();
          const T *from = f[t].data(), *stream = h[t].data(), *weight = s.comb[t].data() + j,
                  share = s.post(t, j);
          for (index_t d = 0; d < width; ++d) {
            T sum = share * from[d];                                                       // Eq. (1)
            for (index_t i = 0; i < n; ++i) sum += weight[i * n] * stream[i * width + d];  // Eq. (1)
            to[d] = sum;
          }
        }
    });
  });
}

/// Gradients of what hyper_write took: sets dh and df, and dpost and dcomb in `ds`.
template <execution E, class T>
void hyper_write_backward(E& e, view<T, 3> dnext /*[t,n,d]*/, view<T, 3> h /*[t,n,d]*/,
                          view<T, 2> f /*[t,d]*/, const hyper_saved<T>& s, view<T, 3> dh /*[t,n,d]*/,
                          view<T, 2> df /*[t,d]*/, const hyper_saved<T>& ds) {
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index_t begin, index_t end) {
    with_streams(h.extent(1), [&](auto n) {
      const index_t width = h.extent(2);
      // to = sum_j weight_j g_j
      const auto combine = [&](const T* weight, const T* g, T* to) {
        for (index_t d = 0; d < width; ++d) {
          T sum = 0;
          for (index_t j = 0; j < n; ++j) sum += weight[j] * g[j * width + d];
          to[d] = sum;
        }
      };
      for (index_t t = begin; t < end; ++t) {
        const T* g = dnext[t].data();
        combine(s.post[t].data(), g, df[t].data());
        for (index_t i = 0; i < n; ++i) combine(s.comb[t][i].data(), g, dh[t][i].data());
        for (index_t j = 0; j < n; ++j) {
          ds.post(t, j) = dot<T>(f[t].data(), g + j * width, width);
          for (index_t i = 0; i < n; ++i) ds.comb(t, i, j) = dot<T>(h[t][i].data(), g + j * width, width);
        }
      }
    });
  });
}

/// dpre_j = <dy, h_j> into ds.pre, dh_j += pre_j dy.
template <execution E, class T>
void collapse_backward(E& e, view<T, 2> dy /*[t,d]*/, view<T, 3> h /*[t,n,d]*/, view<T, 2> pre /*[t,n]*/,
                       view<T, 3> dh /*[t,n,d]*/, view<T, 2> dpre /*[t,n]*/) {
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t j = 0; j < h.extent(1); ++j) {
        const T *g = dy[t].data(), *stream = h[t][j].data();
        T* to = dh[t][j].data();
        const T weight = pre(t, j);
        dpre(t, j) = dot<T>(g, stream, h.extent(2));
        for (index_t d = 0; d < h.extent(2); ++d) to[d] += weight * g[d];
      }
  });
}

/// From the gradient of the logits z = mixes * scale + base to those of mixes (in place), scale and base.
/// `part[m]`: which of the scales mix m is multiplied by.
template <execution E, class T, class Part>
void affine_backward(E& e, view<T, 2> dz /*[t,m] -> dmixes*/, view<T, 2> mixes /*[t,m]*/,
                     view<const T, 1> scale, view<T, 1> dscale, view<T, 1> dbase /*[m]*/, Part part) {
  // The terms of different tokens nearly cancel: summed in double, whatever T is.
  workspace::scope here(thread_scratch());
  auto base = zeros<double>(e, thread_scratch(), dz.extent(1)),
       by_scale = zeros<double>(e, thread_scratch(), dz.extent(1));  // [m]
  for (index_t t = 0; t < dz.extent(0); ++t) {
    T* g = dz[t].data();
    const T* mix = mixes[t].data();
    for (index_t m = 0; m < dz.extent(1); ++m) {
      base[m] += double(g[m]);
      by_scale[m] += double(g[m]) * double(mix[m]);
      g[m] *= scale[part(m)];
    }
  }
  for (index_t m = 0; m < dz.extent(1); ++m) {
    dbase[m] += T(base[m]);
    dscale[part(m)] += T(by_scale[m]);
  }
}

/// Through mixes = (fn x) r: dx += fn^T (dmixes r) - x r^2 / (n D) <dmixes, mixes>, dfn += (dmixes r)^T x.
/// dmixes is overwritten.
template <execution E, class T>
void hyper_mixes_backward(E& e, view<T, 2> dmixes /*[t,m]*/, view<T, 2> mixes /*[t,m]*/, view<T, 1> r /*[t]*/,
                          view<T, 3> h /*[t,n,d]*/, view<const T, 2> fn /*[m,n d]*/,
                          view<T, 3> dh /*[t,n,d]*/, view<T, 2> dfn /*[m,n d]*/) {
  const index_t tokens = h.extent(0), width = h.row_size();
  const auto x = h.reshape(tokens, width), dx = dh.reshape(tokens, width);
  kernel::rows<E>::run(e, tokens, token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) {
      const T pull = dot<T>(dmixes[t].data(), mixes[t].data(), mixes.extent(1)) * r[t] * r[t] / T(width);
      for (T& m : dmixes[t]) m *= r[t];
      const T* from = x[t].data();
      T* to = dx[t].data();
      for (index_t d = 0; d < width; ++d) to[d] -= pull * from[d];
    }
  });
  project_backward(e, dmixes, x, fn, dx, dfn);
}

/// Gradients of what hyper_read took.  ds.post and ds.comb come from hyper_write_backward; dh is added to.
template <execution E, class T>
void hyper_read_backward(E& e, const config& c, view<T, 2> dy /*[t,d]*/, view<T, 3> h /*[t,n,d]*/,
                         const hyper_parameters<const T>& w, const hyper_saved<T>& s,
                         const hyper_saved<T>& ds, view<T, 3> dh /*[t,n,d]*/, const hyper_parameters<T>& dw) {
  const index_t n = h.extent(1);
  collapse_backward(e, dy, h, s.pre, dh, ds.pre);

  // dmixes holds the gradient of z = mixes * scale + base first.
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t j = 0; j < n; ++j) {
        ds.mixes(t, j) = through_sigmoid(ds.pre(t, j), s.pre(t, j) - T(c.hc_eps));
        ds.mixes(t, n + j) = through_sigmoid(ds.post(t, j) * 2, s.post(t, j) / 2);
      }
    workspace::scope here(thread_scratch());
    const auto steps = sinkhorn_steps<T>::take(thread_scratch(), n, c.hc_sinkhorn_iters);
    auto g = thread_scratch().take<T>(n, n, sinkhorn_lanes);  // [i, j, l]
    for (index_t t = begin; t < end; t += sinkhorn_lanes) {
      comb_logits(w, s, t, end, steps.softmax);
      for (index_t l = 0; l < sinkhorn_lanes; ++l)
        for (index_t at = 0; at < n * n; ++at)
          g.data()[at * sinkhorn_lanes + l] = ds.comb[std::min(t + l, end - 1)].data()[at];
      steps.forward(e, T(c.hc_eps));
      steps.backward(g);
      for (index_t l = 0; l < std::min(sinkhorn_lanes, end - t); ++l)
        for (index_t at = 0; at < n * n; ++at)
          ds.mixes(t + l, 2 * n + at) = g.data()[at * sinkhorn_lanes + l];
    }
  });
  affine_backward(e, ds.mixes, s.mixes, w.scale, dw.scale, dw.base, [n](index_t m) {
    return m < n ? 0 : m < 2 * n ? 1 : 2;
  });
  hyper_mixes_backward(e, ds.mixes, s.mixes, s.r, h, w.fn, dh, dw.fn);
}

}  // namespace dsv4::train
