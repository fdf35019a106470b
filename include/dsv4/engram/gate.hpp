// SPDX-License-Identifier: MIT
#pragma once
/// How much of what a table remembers each residual stream takes: forward and backward.
/// source   Engram; as released with DeepSeek-V4.1
/// axes     s stream · d channel
/// oracle   golden/engram: gate_tilekernels, module_v41; finite differences
///
///   rh = (mean h^2 + eps)^-1/2    rk likewise of the key    z = <h, w key> rh rk d^-1/2    w = w_q w_k
///   g = sigmoid(sign(z) sqrt(max(|z|, 1e-6)))               out = h + g value
///
/// The root spreads small products apart.  At z = 0 exactly the released kernels take the sign of the zero (g =
/// sigmoid(+-0.001)), their reference takes 0 (g = 1/2): `root_sign`.
/// Back:  dz = dg g (1 - g) / (2 sqrt|z|) where |z| >= 1e-6, else 0;   the rest is that of a product of two normed vectors.
#include <algorithm>
#include <cmath>

#include "../core/contract.hpp"
#include "../core/fold.hpp"
#include "../core/view.hpp"
#include "../num/formulas.hpp"

namespace dsv4::engram {

/// The sign of the root at zero.
enum class root_sign {
  copied,  ///< that of the zero: the released kernels and modules
  zero,    ///< none: TileKernels' reference, the paper's demonstration
};

/// Below this a product counts as this large, and has no gradient.
inline constexpr double smallest_product = 1e-6;

template <class T>
struct gate_values {
  T hidden_factor, key_factor;  // rh, rk
  T product;                    // <h, w key>
  T z;                          // normed
  T gate;
};

/// One stream of one token.
template <class T>
gate_values<T> gate_of(view<const T, 1> h /*[d]*/, view<const T, 1> key /*[d]*/, view<const T, 1> w /*[d]*/,
                       T eps, root_sign sign) {
  const index_t n = h.extent(0);
  const auto factor = [&](const view<const T, 1>& x) {
    return 1 / std::sqrt(fold(n, T(0), [&](index_t d) { return x[d] * x[d]; }) / T(n) + eps);
  };
  gate_values<T> g;
  g.hidden_factor = factor(h), g.key_factor = factor(key);
  // einsum: d, d, d -> (scalar)
  g.product = fold(n, T(0), [&](index_t d) { return h[d] * w[d] * key[d]; });
  g.z = g.product * g.hidden_factor * g.key_factor / std::sqrt(T(n));
  const T root = std::sqrt(std::max(std::abs(g.z), T(smallest_product)));
  const T signed_root = g.z == 0 && sign == root_sign::zero ? T(0) : std::copysign(root, g.z);
  g.gate = sigmoid(signed_root);
  return g;
}

/// out = h + gate value, for the streams of one token.  closed: a dead token (hash.hpp), whose streams pass unchanged.
template <class T>
void gate_forward(view<const T, 2> h /*[s,d]*/, view<const T, 2> key /*[s,d]*/,
                  view<const T, 1> value /*[d]*/, view<const T, 2> w /*[s,d]*/, T eps, root_sign sign,
                  bool closed, view<T, 2> out /*[s,d]*/) {
  for (index_t s = 0; s < h.extent(0); ++s) {
    const T g = closed ? T(0) : gate_of<T>(h[s], key[s], w[s], eps, sign).gate;
    for (index_t d = 0; d < h.extent(1); ++d) out(s, d) = h(s, d) + g * value[d];
  }
}

/// Of g value alone, without the stream that it is added to: dh, dkey, dvalue, dw += ...
template <class T>
void gated_value_backward(view<const T, 1> dout /*[d]*/, view<const T, 1> h /*[d]*/,
                          view<const T, 1> key /*[d]*/, view<const T, 1> value /*[d]*/,
                          view<const T, 1> w /*[d]*/, T eps, root_sign sign, view<T, 1> dh /*[d]*/,
                          view<T, 1> dkey /*[d]*/, view<T, 1> dvalue /*[d]*/, view<T, 1> dw /*[d]*/) {
  const index_t n = h.extent(0);
  const gate_values<T> g = gate_of<T>(h, key, w, eps, sign);
  const T dgate = fold(n, T(0), [&](index_t d) { return dout[d] * value[d]; });
  const T size = std::abs(g.z);
  const T dz = size >= T(smallest_product) ? through_sigmoid(dgate, g.gate) / (2 * std::sqrt(size)) : T(0);
  const T e = dz * g.hidden_factor * g.key_factor / std::sqrt(T(n)),  // of the product
      pull_h = dz * g.z * g.hidden_factor * g.hidden_factor / T(n),   // of h's length
      pull_key = dz * g.z * g.key_factor * g.key_factor / T(n);       // of the key's
  for (index_t d = 0; d < n; ++d) {
    dh[d] += e * w[d] * key[d] - pull_h * h[d];
    dkey[d] += e * w[d] * h[d] - pull_key * key[d];
    dw[d] += e * h[d] * key[d];
    dvalue[d] += g.gate * dout[d];
  }
}

/// dh, dkey, dvalue, dw += ...
template <class T>
void gate_backward(view<const T, 2> dout /*[s,d]*/, view<const T, 2> h /*[s,d]*/,
                   view<const T, 2> key /*[s,d]*/, view<const T, 1> value /*[d]*/,
                   view<const T, 2> w /*[s,d]*/, T eps, root_sign sign, bool closed, view<T, 2> dh /*[s,d]*/,
                   view<T, 2> dkey /*[s,d]*/, view<T, 1> dvalue /*[d]*/, view<T, 2> dw /*[s,d]*/) {
  for (index_t s = 0; s < h.extent(0); ++s) {
    for (index_t d = 0; d < h.extent(1); ++d) dh(s, d) += dout(s, d);
    if (!closed)
      gated_value_backward<T>(dout[s], h[s], key[s], value, w[s], eps, sign, dh[s], dkey[s], dvalue, dw[s]);
  }
}

}  // namespace dsv4::engram
