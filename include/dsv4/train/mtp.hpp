// SPDX-License-Identifier: MIT
#pragma once
/// The embedding, and the input of the multi-token-prediction module, forward and backward.
/// @paper{DSV4, section 2.1 (as DeepSeek-V3, section 2.2)}
/// axes     t token · n = j stream · d channel
/// oracle   op/embedding.hpp, model/mtp.hpp (forward); finite differences
/// deviates none
///
///   h_0[j] = embed(token)       every stream begins as the same embedding
///   x[j]   = e_proj enorm(embed(next token)) + h_proj hnorm(h[j])
#include <span>

#include "parameters.hpp"
#include "rms_norm.hpp"

namespace dsv4::train {

/// h [t, n, d]: each token's row, n times.
template <execution E, class T>
void embed_streams(E& e, std::span<const std::int32_t> ids /*[t]*/, view<const T, 2> table /*[v,d]*/,
                   view<T, 3> h /*[t,n,d]*/) {
  kernel::rows<E>::run(e, h.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t j = 0; j < h.extent(1); ++j)
        std::copy_n(table[ids[usize(t)]].data(), h.extent(2), h[t][j].data());
  });
}

/// Adds the rows of dh to dtable, in the order of the tokens.
template <execution E, class T>
void embed_backward(E& e, std::span<const std::int32_t> ids /*[t]*/, view<T, 3> dh /*[t,n,d]*/,
                    view<T, 2> dtable /*[v,d]*/) {
  kernel::rows<E>::run(e, dh.extent(2), channel_grain, [&](index_t begin, index_t end) {
    for (index_t t = 0; t < dh.extent(0); ++t)
      for (index_t j = 0; j < dh.extent(1); ++j)
        for (index_t d = begin; d < end; ++d) dtable(ids[usize(t)], d) += dh(t, j, d);
  });
}

template <class T>
struct mtp_saved {
  view<T, 3> token;    // [t, 1, d] embedding of the next token
  view<T, 1> token_r;  // [t]
  view<T, 2> enormed;  // [t, d]
  view<T, 1> h_r;      // [t n]
  view<T, 2> hnormed;  // [t n, d]

  static mtp_saved take(workspace& w, index_t t, index_t n, index_t d) {
    return {w.take<T>(t, 1, d), w.take<T>(t), w.take<T>(t, d), w.take<T>(t * n), w.take<T>(t * n, d)};
  }
};

/// x [t, n, d], the streams the module's block begins with.
template <execution E, class T>
void mtp_input(E& e, workspace& scratch, const config& c, std::span<const std::int32_t> next /*[t]*/,
               view<const T, 2> table /*[v,d]*/, const mtp_parameters<const T>& w, view<T, 3> h /*[t,n,d]*/,
               const mtp_saved<T>& s, view<T, 3> x /*[t,n,d]*/) {
  workspace::scope here(scratch);
  const index_t tokens = h.extent(0), n = h.extent(1), d = h.extent(2);
  embed_streams(e, next, table, s.token);
  rms_norm(e, s.token.reshape(tokens, d), w.enorm, c.rms_norm_eps, s.token_r, s.enormed);
  rms_norm(e, h.reshape(tokens * n, d), w.hnorm, c.rms_norm_eps, s.h_r, s.hnormed);
  auto projected = scratch.take<T>(tokens, d);  // [t, d]
  project(e, s.enormed, w.e_proj, projected);
  project(e, s.hnormed, w.h_proj, x.reshape(tokens * n, d));
  kernel::rows<E>::run(e, tokens, token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t j = 0; j < n; ++j)
        for (index_t i = 0; i < d; ++i) x(t, j, i) += projected(t, i);
  });
}

/// dh += …, dtable += …, dw += …
template <execution E, class T>
void mtp_input_backward(E& e, workspace& scratch, view<T, 3> dx /*[t,n,d]*/,
                        std::span<const std::int32_t> next /*[t]*/, const mtp_parameters<const T>& w,
                        view<T, 3> h /*[t,n,d]*/, const mtp_saved<T>& s, view<T, 3> dh /*[t,n,d]*/,
                        view<T, 2> dtable /*[v,d]*/, const mtp_parameters<T>& dw) {
  workspace::scope here(scratch);
  const index_t tokens = h.extent(0), n = h.extent(1), d = h.extent(2);
  auto dhnormed = zeros<T>(e, scratch, tokens * n, d);  // [t n, d]
  project_backward(e, dx.reshape(tokens * n, d), s.hnormed, w.h_proj, dhnormed, dw.h_proj);
  rms_norm_backward(e, dhnormed, h.reshape(tokens * n, d), w.hnorm, s.h_r, dh.reshape(tokens * n, d),
                    dw.hnorm);

  auto dprojected = zeros<T>(e, scratch, tokens, d), denormed = zeros<T>(e, scratch, tokens, d);  // [t, d]
  kernel::rows<E>::run(e, tokens, token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t j = 0; j < n; ++j)
        for (index_t i = 0; i < d; ++i) dprojected(t, i) += dx(t, j, i);
  });
  project_backward(e, dprojected, s.enormed, w.e_proj, denormed, dw.e_proj);
  auto dtoken = zeros<T>(e, scratch, tokens, 1, d);  // [t, 1, d]
  rms_norm_backward(e, denormed, s.token.reshape(tokens, d), w.enorm, s.token_r, dtoken.reshape(tokens, d),
                    dw.enorm);
  embed_backward(e, next, dtoken, dtable);
}

}  // namespace dsv4::train
