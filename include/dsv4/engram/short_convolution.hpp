// SPDX-License-Identifier: MIT
#pragma once
/// Engram as its paper has it: biased keys and values, and a short convolution along the sequence after the gate.
/// source   Engram, the paper's demonstration; DeepSeek-V4.1 has no convolution and no biases
/// axes     t token of one sequence · i channel of an embedding · s stream · d channel · c channel of all streams · j tap
/// oracle   golden/engram/paper_variant.safetensors
///
///   u_s = g_s value        g as in gate.hpp, with a norm weight each for key and stream
///   x_s = RMSNorm(u_s)     y_t = sum_j taps_j x_{t - (K-1-j) dilation}     out = u + silu(y)       silu(y) = y sigmoid(y)
///
/// The dilation is the longest n-gram, so that neighbouring taps never share a token.  The streams that out is added to
/// are not in it.
#include <cmath>
#include <utility>

#include "../core/tensor.hpp"
#include "gate.hpp"

namespace dsv4::engram {

/// Weights of one layer, or their gradients.
template <class T>
struct convolved_weights {
  view<T, 2> key;         // [c,i] a projection for each stream, one below another
  view<T, 1> key_bias;    // [c]
  view<T, 2> value;       // [d,i]
  view<T, 1> value_bias;  // [d]
  view<T, 2> key_norm;    // [s,d]
  view<T, 2> query_norm;  // [s,d]
  view<T, 2> conv_norm;   // [s,d]
  view<T, 2> taps;        // [c,j] the last one is the token itself
};

struct convolution_shape {
  index_t dilation = 3;
  double gate_eps = 0x1p-52;  ///< of the gate's norms: the machine epsilon of double
  double conv_eps = 1e-5;
};

/// What the way back needs.
template <class T>
struct convolved_state {
  tensor<T, 3> key;     // [t,s,d]
  tensor<T, 2> value;   // [t,d]
  tensor<T, 3> u, x;    // [t,s,d]
  tensor<T, 3> y;       // [t,s,d]
  tensor<T, 2> factor;  // [t,s] 1 / root mean square of u
};

template <class T>
convolved_state<T> convolved_forward(view<const T, 3> h /*[t,s,d]*/, view<const T, 2> e /*[t,i]*/,
                                     const convolved_weights<const T>& w, const convolution_shape& shape,
                                     view<T, 3> out /*[t,s,d]*/) {
  // contract
  const index_t tokens = h.extent(0), streams = h.extent(1), width = h.extent(2), taps = w.taps.extent(1);
  expects_equal(w.key.extent(0), streams * width, "engram: rows of the key projections");
  expects_equal(w.taps.extent(0), streams * width, "engram: channels of the convolution");
  expects(shape.dilation >= 1, "engram: the dilation is at least 1");

  const tensor<T, 3> nothing(tokens, streams, width);
  convolved_state<T> m{nothing, tensor<T, 2>(tokens, width),  nothing, nothing,
                       nothing, tensor<T, 2>(tokens, streams)};
  const auto project = [&](index_t t, view<const T, 2> weight, view<const T, 1> bias, T* to) {
    // einsum: i, o i -> o
    for (index_t o = 0; o < weight.extent(0); ++o)
      to[o] = fold(e.extent(1), T(0), [&](index_t i) { return e(t, i) * weight(o, i); }) + bias[o];
  };
  tensor<T, 1> fused(width);
  for (index_t t = 0; t < tokens; ++t) {
    project(t, w.key, w.key_bias, m.key[t].data());
    project(t, w.value, w.value_bias, m.value[t].data());
    for (index_t s = 0; s < streams; ++s) {
      for (index_t d = 0; d < width; ++d) fused[d] = w.key_norm(s, d) * w.query_norm(s, d);
      const T g =
          gate_of<T>(h[t][s], std::as_const(m.key)[t][s], fused, T(shape.gate_eps), root_sign::zero).gate;
      for (index_t d = 0; d < width; ++d) m.u(t, s, d) = g * m.value(t, d);
      const T squares = fold(width, T(0), [&](index_t d) { return m.u(t, s, d) * m.u(t, s, d); });
      m.factor(t, s) = 1 / std::sqrt(squares / T(width) + T(shape.conv_eps));
      for (index_t d = 0; d < width; ++d) m.x(t, s, d) = m.u(t, s, d) * m.factor(t, s) * w.conv_norm(s, d);
    }
  }
  for (index_t t = 0; t < tokens; ++t)
    for (index_t s = 0; s < streams; ++s)
      for (index_t d = 0; d < width; ++d) {
        T y = 0;
        for (index_t j = 0; j < taps; ++j)
          if (const index_t from = t - (taps - 1 - j) * shape.dilation; from >= 0)
            y += w.taps(s * width + d, j) * m.x(from, s, d);
        m.y(t, s, d) = y;
        out(t, s, d) = m.u(t, s, d) + silu(y);
      }
  return m;
}

/// dh, de, dw += ...
template <class T>
void convolved_backward(view<const T, 3> dout /*[t,s,d]*/, view<const T, 3> h /*[t,s,d]*/,
                        view<const T, 2> e /*[t,i]*/, const convolved_weights<const T>& w,
                        const convolution_shape& shape, const convolved_state<T>& m,
                        view<T, 3> dh /*[t,s,d]*/, view<T, 2> de /*[t,i]*/, const convolved_weights<T>& dw) {
  const index_t tokens = h.extent(0), streams = h.extent(1), width = h.extent(2), taps = w.taps.extent(1);
  tensor<T, 3> dx(tokens, streams, width), dkey(tokens, streams, width);
  tensor<T, 2> dvalue(tokens, width);
  // Through silu and the convolution.
  for (index_t t = 0; t < tokens; ++t)
    for (index_t s = 0; s < streams; ++s)
      for (index_t d = 0; d < width; ++d) {
        const T y = m.y(t, s, d), g = sigmoid(y), dy = dout(t, s, d) * g * (1 + y * (1 - g));
        for (index_t j = 0; j < taps; ++j)
          if (const index_t from = t - (taps - 1 - j) * shape.dilation; from >= 0) {
            dw.taps(s * width + d, j) += dy * m.x(from, s, d);
            dx(from, s, d) += dy * w.taps(s * width + d, j);
          }
      }
  // Through the norm, then the gate.
  tensor<T, 1> du(width), fused(width), dfused(width);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t s = 0; s < streams; ++s) {
      const T r = m.factor(t, s);
      const T pull =
          fold(width, T(0), [&](index_t d) { return dx(t, s, d) * w.conv_norm(s, d) * m.u(t, s, d); }) * r *
          r * r / T(width);
      for (index_t d = 0; d < width; ++d) {
        dw.conv_norm(s, d) += dx(t, s, d) * m.u(t, s, d) * r;
        du[d] = dout(t, s, d) + dx(t, s, d) * w.conv_norm(s, d) * r - pull * m.u(t, s, d);
        fused[d] = w.key_norm(s, d) * w.query_norm(s, d);
        dfused[d] = 0;
      }
      gated_value_backward<T>(du, h[t][s], m.key[t][s], m.value[t], fused, T(shape.gate_eps), root_sign::zero,
                              dh[t][s], dkey[t][s], dvalue[t], dfused);
      for (index_t d = 0; d < width; ++d) {
        dw.key_norm(s, d) += dfused[d] * w.query_norm(s, d);
        dw.query_norm(s, d) += dfused[d] * w.key_norm(s, d);
      }
    }
  // Through both projections.
  const auto project_back = [&](index_t t, const T* dy, view<const T, 2> weight, view<T, 2> dweight,
                                view<T, 1> dbias) {
    // einsum: o, o i -> i    and    o, i -> o i
    for (index_t o = 0; o < weight.extent(0); ++o) {
      dbias[o] += dy[o];
      for (index_t i = 0; i < e.extent(1); ++i) {
        de(t, i) += dy[o] * weight(o, i);
        dweight(o, i) += dy[o] * e(t, i);
      }
    }
  };
  for (index_t t = 0; t < tokens; ++t) {
    project_back(t, dkey[t].data(), w.key, dw.key, dw.key_bias);
    project_back(t, dvalue[t].data(), w.value, dw.value, dw.value_bias);
  }
}

}  // namespace dsv4::engram
