// SPDX-License-Identifier: MIT
#pragma once
/// Mixture of experts, forward and backward: routed SwiGLU experts and the shared one.
/// @paper{DSV4, section 2.1 and 4.2.3 (clamps)}
/// axes     t token · a assignment (one token to one expert) · i intermediate channel · e expert · k choice
/// oracle   moe/*.hpp (forward); finite differences; golden/transformers/seed0/grads.safetensors
/// deviates none
///
///   a = W1 x    u = W3 x    z = silu(min(a, limit)) clamp(u, +-limit) w    y = W2 z
///   du = dz silu(a) w  where |u| <= limit     da = dz u w silu'(a)  where a <= limit     dw = <dz, z / w>
/// Assignments are sorted by expert, then token, so that each expert reads consecutive rows; a token adds the
/// outputs of its experts in increasing expert id.
#include <cmath>

#include "gate.hpp"
#include "objective.hpp"
#include "parameters.hpp"

namespace dsv4::train {

/// Which rows belong to which expert.
struct assignments {
  view<index_t, 1> begin;        // [e + 1] first row of each expert
  view<index_t, 1> token;        // [a]
  view<std::int32_t, 1> choice;  // [a] which of the token's k
  view<index_t, 2> row;          // [t, k] row of each choice

  template <class T>
  static assignments of(workspace& w, const config& c, const gate_saved<T>& s) {
    const index_t t = s.indices.extent(0), k = s.indices.extent(1), experts = c.n_routed_experts;
    assignments a{w.take<index_t>(experts + 1), w.take<index_t>(t * k), w.take<std::int32_t>(t * k),
                  w.take<index_t>(t, k)};
    const std::vector<index_t> load = expert_load(c, s, 0, t);
    a.begin[0] = 0;
    for (index_t e = 0; e < experts; ++e) a.begin[e + 1] = a.begin[e] + load[usize(e)];
    std::vector<index_t> next(a.begin.begin(), a.begin.end() - 1);
    for (index_t i = 0; i < t; ++i)
      for (index_t j = 0; j < k; ++j) {
        const index_t at = next[usize(s.indices(i, j))]++;
        a.token[at] = i;
        a.choice[at] = static_cast<std::int32_t>(j);
        a.row(i, j) = at;
      }
    return a;
  }
};

template <class T>
struct expert_saved {
  view<T, 2> x;     // [a, D] inputs (of the shared expert: not used, they are the tokens)
  view<T, 2> a, u;  // [a, i]
};
template <class T>
struct moe_saved {
  gate_saved<T> gate;
  assignments rows;
  expert_saved<T> routed, shared;

  static moe_saved take(workspace& w, const config& c, index_t t) {
    const index_t n = t * c.num_experts_per_tok, inner = c.moe_intermediate_size, d = c.hidden_size;
    return {gate_saved<T>::take(w, c, t),
            {},
            {w.take<T>(n, d), w.take<T>(n, inner), w.take<T>(n, inner)},
            {{}, w.take<T>(t, inner), w.take<T>(t, inner)}};
  }
};

/// s = sigmoid(min(a, limit)).
template <execution E, class T>
void clamped_sigmoid(E& e, const T* a, index_t n, T limit, T* s) {
  for (index_t i = 0; i < n; ++i) s[i] = -swiglu_gate(a[i], limit);
  kernel::exponential<E>::run(e, s, n);
  for (index_t i = 0; i < n; ++i) s[i] = sigmoid_of_exp(s[i]);
}

/// z = silu(min(a, limit)) clamp(u) weight,  silu(x) = x sigmoid(x).
template <execution E, class T>
void swiglu(E& e, const T* a, const T* u, index_t n, T limit, T weight, T* z) {
  clamped_sigmoid(e, a, n, limit, z);
  for (index_t i = 0; i < n; ++i) z[i] *= swiglu_gate(a[i], limit) * swiglu_up(u[i], limit) * weight;
}

/// From dz to da and du.  @returns the gradient of the weight.
template <execution E, class T>
T swiglu_backward(E& e, const T* a, const T* u, const T* dz, index_t n, T limit, T weight, T* da, T* du) {
  const auto gate = [=](index_t i) { return swiglu_gate(a[i], limit); };
  const auto up = [=](index_t i) { return swiglu_up(u[i], limit); };
  clamped_sigmoid(e, a, n, limit, da);
  const T dweight = fold(n, T(0), [=](index_t i) { return dz[i] * gate(i) * da[i] * up(i); });
  for (index_t i = 0; i < n; ++i) {
    const T x = gate(i), s = da[i];
    du[i] = std::abs(u[i]) > limit ? T(0) : dz[i] * x * s * weight;
    da[i] =
        a[i] > limit ? T(0) : dz[i] * up(i) * weight * s * (1 + x * (1 - s));  // silu' = s (1 + x (1 - s))
  }
  return dweight;
}

/// y = W2 z of rows that share an expert; `weight(row)` is the routing weight.
template <execution E, class T, class Weight>
void expert_forward(E& e, const config& c, view<T, 2> x /*[a,D]*/, const expert_parameters<const T>& w,
                    const expert_saved<T>& s, Weight weight, view<T, 2> y /*[a,D]*/) {
  workspace& scratch = thread_scratch();
  workspace::scope here(scratch);
  const index_t n = x.extent(0), inner = w.w1.extent(0);
  project(e, x, w.w1, s.a);
  project(e, x, w.w3, s.u);
  auto z = scratch.take<T>(n, inner);  // [a, i]
  kernel::rows<E>::run(e, n, token_grain, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      swiglu<E, T>(e, s.a[i].data(), s.u[i].data(), inner, T(c.swiglu_limit), weight(i), z[i].data());
  });
  project(e, z, w.w2, y);
}

/// dx += …, dw += …; `dweight(row, value)` receives the gradients of the routing weights.
template <execution E, class T, class Weight, class DWeight>
void expert_backward(E& e, const config& c, view<T, 2> dy /*[a,D]*/, view<T, 2> x /*[a,D]*/,
                     const expert_parameters<const T>& w, const expert_saved<T>& s, Weight weight,
                     DWeight dweight, view<T, 2> dx /*[a,D]*/, const expert_parameters<T>& dw) {
  workspace& scratch = thread_scratch();
  workspace::scope here(scratch);
  const index_t n = x.extent(0), inner = w.w1.extent(0);
  auto dz = zeros<T>(e, scratch, n, inner);  // [a, i]
  auto z = scratch.take<T>(n, inner), da = scratch.take<T>(n, inner),
       du = scratch.take<T>(n, inner);  // [a, i]
  kernel::rows<E>::run(e, n, token_grain, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      swiglu<E, T>(e, s.a[i].data(), s.u[i].data(), inner, T(c.swiglu_limit), weight(i), z[i].data());
  });
  project_backward(e, dy, z, w.w2, dz, dw.w2);
  kernel::rows<E>::run(e, n, token_grain, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      dweight(i, swiglu_backward<E, T>(e, s.a[i].data(), s.u[i].data(), dz[i].data(), inner,
                                       T(c.swiglu_limit), weight(i), da[i].data(), du[i].data()));
  });
  project_backward(e, da, x, w.w1, dx, dw.w1);
  project_backward(e, du, x, w.w3, dx, dw.w3);
}

/// The rows of one expert.
template <class T>
expert_saved<T> rows_of(const expert_saved<T>& s, index_t begin, index_t end) {
  return {s.x.rows(begin, end), s.a.rows(begin, end), s.u.rows(begin, end)};
}

/// Adds the rows of token t to `to`, in increasing expert id.
template <class T>
void add_choices(const config& c, const assignments& rows, view<T, 2> y /*[a,D]*/, index_t t, T* to) {
  // Rows are sorted by expert: increasing row is increasing expert id.
  index_t last = -1;
  for (index_t n = 0; n < c.num_experts_per_tok; ++n) {
    index_t next = y.extent(0);
    for (index_t j = 0; j < c.num_experts_per_tok; ++j)
      if (const index_t r = rows.row(t, j); r > last && r < next) next = r;
    const T* from = y[next].data();
    for (index_t d = 0; d < y.extent(1); ++d) to[d] += from[d];
    last = next;
  }
}

/// out [t, D] = routed experts + shared expert, for routes that are already in s.gate.
template <execution E, class T>
void experts(E& e, workspace& scratch, const config& c, view<T, 2> x /*[t,D]*/,
             const moe_parameters<const T>& w, moe_saved<T>& s, view<T, 2> out /*[t,D]*/) {
  const index_t tokens = x.extent(0), k = c.num_experts_per_tok;
  workspace::scope here(scratch);
  expert_forward(e, c, x, w.shared, s.shared, [](index_t) { return T(1); }, out);
  const assignments& rows = s.rows;
  auto y = scratch.take<T>(tokens * k, x.extent(1));  // [a, D]
  kernel::rows<E>::run(e, c.n_routed_experts, 1, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      const index_t begin = rows.begin[i], end = rows.begin[i + 1];
      if (begin == end) continue;
      const expert_saved<T> own = rows_of(s.routed, begin, end);
      for (index_t a = begin; a < end; ++a)
        std::copy_n(x[rows.token[a]].data(), x.extent(1), s.routed.x[a].data());
      expert_forward(
          e, c, own.x, w.experts[usize(i)], own,
          [&](index_t a) { return s.gate.weights(rows.token[begin + a], rows.choice[begin + a]); },
          y.rows(begin, end));
    }
  });
  kernel::rows<E>::run(e, tokens, token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) add_choices(c, rows, y, t, out[t].data());
  });
}

/// dx += …, dw += …  `balance_scale`: of the balance loss's gradient, 0 for none.  @returns the sum of L_bal / alpha over samples.
template <execution E, class T>
double moe_backward(E& e, workspace& scratch, const config& c, const batch& b, view<T, 2> dout /*[t,D]*/,
                    view<T, 2> x /*[t,D]*/, const moe_parameters<const T>& w, const moe_saved<T>& s,
                    T balance_scale, bool learned, view<T, 2> dx /*[t,D]*/, const moe_parameters<T>& dw) {
  const index_t tokens = x.extent(0), k = c.num_experts_per_tok;
  workspace::scope here(scratch);
  const assignments& rows = s.rows;
  expert_backward(
      e, c, dout, x, w.shared, s.shared, [](index_t) { return T(1); }, [](index_t, T) {}, dx, dw.shared);

  auto dweights = scratch.take<T>(tokens, k);                   // [t, k]
  auto dinput = zeros<T>(e, scratch, tokens * k, x.extent(1));  // [a, D]
  kernel::rows<E>::run(e, c.n_routed_experts, 1, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      const index_t begin = rows.begin[i], end = rows.begin[i + 1];
      if (begin == end) continue;
      const expert_saved<T> own = rows_of(s.routed, begin, end);
      workspace::scope mine(thread_scratch());
      auto dy = thread_scratch().take<T>(end - begin, x.extent(1));  // [a, D]
      for (index_t a = begin; a < end; ++a)
        std::copy_n(dout[rows.token[a]].data(), x.extent(1), dy[a - begin].data());
      expert_backward(
          e, c, dy, own.x, w.experts[usize(i)], own,
          [&](index_t a) { return s.gate.weights(rows.token[begin + a], rows.choice[begin + a]); },
          [&](index_t a, T v) { dweights(rows.token[begin + a], rows.choice[begin + a]) = v; },
          dinput.rows(begin, end), dw.experts[usize(i)]);
    }
  });
  kernel::rows<E>::run(e, tokens, token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) add_choices(c, rows, dinput, t, dx[t].data());
  });

  auto dscores = zeros<T>(e, scratch, tokens, c.n_routed_experts);  // [t, e]
  double balance = 0;
  if (learned)
    for (index_t i = 0; i < b.samples(); ++i)
      balance += balance_loss(c, s.gate, b.begin(i), b.end(i), balance_scale, dscores);
  gate_backward(e, c, dweights, dscores, x, w.gate.weight, s.gate, dx, dw.gate.weight);
  return balance;
}

}  // namespace dsv4::train
