// SPDX-License-Identifier: MIT
#pragma once
/// Routed experts over a routed batch: choices sorted by expert, one task per expert and piece of rows.
/// @paper{DSV4, section 2.1 and 4.2.3}
/// axes     t token · d channel · i intermediate channel · e expert · k choice · s choice in sorted order
/// oracle   kernel::experts<exec::ref>
/// deviates none
///
/// A counting sort lists the choices (t, k) by expert, tokens in order within one.  With FP4 weights and
/// quantised activations every token becomes digits once (cpu/op/dot_fp4.hpp), whichever experts it goes
/// to, and all experts share three passes: w1 and w3; SwiGLU and the digits of its output; w2.  Other
/// formats run expert by expert on gathered tokens, parallel inside.
/// Order of sums.  routed[t] adds its experts' stored outputs in increasing expert id, from 0.
#include "../../moe/expert.hpp"
#include "../op/act_quant.hpp"
#include "../op/linear.hpp"
#include "../op/swiglu.hpp"

namespace dsv4 {

namespace cpu {

inline constexpr index_t rows_of_expert_task = 32;     // 32 x 4096 weights: 12 us of one core at FP4
inline constexpr index_t tokens_of_expert_pass = 512;  // bounds the scratch of one pass

/// Choices by expert.
template <class W>
struct sorted_routes {
  view<index_t, 1> expert;  // [s]
  view<index_t, 1> token;   // [s]
  view<W, 1> weight;        // [s]
  view<index_t, 2> place;   // [t, k]  s of the choices of a token, by increasing expert
  view<index_t, 1> active;  // experts that have tokens
  view<index_t, 1> first;   // [active + 1]  their first s
  index_t actives = 0;

  index_t count(index_t a) const { return first[a + 1] - first[a]; }
};

template <class W>
sorted_routes<W> sort_routes(workspace& scratch, const routing<W>& route, index_t from, index_t tokens,
                             index_t experts) {
  const index_t k = route.indices.extent(1), choices = tokens * k;
  sorted_routes<W> r{scratch.take<index_t>(choices), scratch.take<index_t>(choices),
                     scratch.take<W>(choices),       scratch.take<index_t>(tokens, k),
                     scratch.take<index_t>(experts), scratch.take<index_t>(experts + 1)};
  // Count, then turn the counts into the first place of each expert.
  auto place = scratch.take<index_t>(experts);
  std::fill(place.begin(), place.end(), index_t{0});
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < k; ++j) ++place[route.indices(from + t, j)];
  index_t sum = 0;
  for (index_t e = 0; e < experts; ++e) {
    const index_t n = std::exchange(place[e], sum);
    if (n == 0) continue;
    r.active[r.actives] = e;
    r.first[r.actives++] = sum;
    sum += n;
  }
  r.first[r.actives] = sum;
  // Put every choice in its place …
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < k; ++j) {
      const index_t s = place[route.indices(from + t, j)]++;
      r.expert[s] = route.indices(from + t, j);
      r.token[s] = from + t;
      r.weight[s] = route.weights(from + t, j);
    }
  // … and tell every token where its choices are.
  auto seen = scratch.take<index_t>(tokens);
  std::fill(seen.begin(), seen.end(), index_t{0});
  for (index_t s = 0; s < choices; ++s) {
    const index_t t = r.token[s] - from;
    r.place(t, seen[t]++) = s;
  }
  return r;
}

/// routed[t] = sum of y over the places of t, in order.
template <class W, class A>
void add_experts(const sorted_routes<W>& r, view<const A, 2> y /*[s,d]*/, view<W, 2> routed /*[t,d]*/) {
  const index_t d = routed.extent(1), k = r.place.extent(1);
  for_rows(routed.extent(0), d * k, [&](index_t t) {
    std::fill_n(routed[t].data(), d, W(0));
    for (index_t j = 0; j < k; ++j) {
      const A* from = y[r.place(t, j)].data();
      for (index_t c = 0; c < d; ++c) routed(t, c) += widen<W>(from[c]);
    }
  });
}

/// Whether the integer kernel takes a matrix.
inline bool integer_product(const weight_matrix& w) {
  return w.type == dtype::f4_e2m1 && w.scale && w.tile_cols == fp4_tile_cols;
}

/// x [t, k] as codes, then as digits, in `scratch`.
template <class E, class A>
digit_rows quantised_digits(E& e, workspace& scratch, view<A, 2> x) {
  auto code = scratch.take<e4m3>(x.extent(0), x.extent(1));
  auto scale = scratch.take<float>(x.extent(0), ceil_div(x.extent(1), fp8_tile));
  act_quant(e, x, code, scale);
  return make_digits(scratch, {code, scale}, 0, x.extent(0));
}

}  // namespace cpu

namespace kernel {

template <accumulate M>
struct experts<exec::basic_cpu<M>> {
  using E = exec::basic_cpu<M>;
  using W = wide_t<E>;

  template <numerics_policy P>
  static void run(E& e, workspace& scratch, view<act_t<P>, 2> x, const routing<W>& route,
                  const std::vector<expert_weights<>>& all, double limit, view<W, 2> routed) {
    const index_t tokens = x.extent(0);
    for (index_t from = 0; from < tokens; from += cpu::tokens_of_expert_pass) {
      const workspace::scope here(scratch);
      const index_t n = std::min(cpu::tokens_of_expert_pass, tokens - from);
      const auto r = cpu::sort_routes(scratch, route, from, n, static_cast<index_t>(all.size()));
      auto y = scratch.take<act_t<P>>(r.token.extent(0), x.extent(1));  // [s, d]
      if (P::quantised && integer_products(r, all))
        by_integers<P>(e, scratch, x, from, n, r, all, limit, y);
      else
        one_by_one<P>(e, scratch, x, r, all, limit, y);
      cpu::add_experts(r, view<const act_t<P>, 2>(y), routed.rows(from, from + n));
    }
  }

 private:
  static bool integer_products(const cpu::sorted_routes<W>& r, const std::vector<expert_weights<>>& all) {
    const index_t inner = all.front().w1.rows;
    for (index_t a = 0; a < r.actives; ++a) {
      const expert_weights<>& w = all[static_cast<std::size_t>(r.active[a])];
      if (!cpu::integer_product(w.w1) || !cpu::integer_product(w.w3) || !cpu::integer_product(w.w2))
        return false;
      if (w.w1.rows != inner || w.w3.rows != inner) return false;
    }
    return true;
  }

  /// f(a, rows [begin, end)) for every active expert a and piece of `rows` rows, as one set of tasks.
  template <class F>
  static void tasks(index_t actives, index_t rows, F f) {
    const index_t pieces = cpu::ceil_div(rows, cpu::rows_of_expert_task);
    cpu::parallel_tasks(actives * pieces, [&](index_t i) {
      const index_t begin = i % pieces * cpu::rows_of_expert_task;
      f(i / pieces, begin, std::min(begin + cpu::rows_of_expert_task, rows));
    });
  }

  template <class P, class A>
  static void by_integers(E& e, workspace& scratch, view<A, 2> x, index_t from, index_t n,
                          const cpu::sorted_routes<W>& r, const std::vector<expert_weights<>>& all,
                          double limit, view<A, 2> y) {
    const index_t inner = all.front().w1.rows, choices = r.token.extent(0), d = x.extent(1);
    auto a = scratch.take<A>(choices, inner), u = scratch.take<A>(choices, inner);  // [s, i]
    auto row = scratch.take<index_t>(choices);  // [s]  token of the pass; then s
    for (index_t s = 0; s < choices; ++s) row[s] = r.token[s] - from;
    // a = w1 x, u = w3 x
    const auto input = cpu::quantised_digits(e, scratch, x.rows(from, from + n));
    tasks(r.actives, inner, [&](index_t i, index_t begin, index_t end) {
      const expert_weights<>& w = all[static_cast<std::size_t>(r.active[i])];
      const auto own = input.of(row.data() + r.first[i], r.count(i));
      const index_t first = r.first[i];
      cpu::multiply_fp4<W>(w.w1, begin, end, own, cpu::into<W>(a[first].data(), inner));
      cpu::multiply_fp4<W>(w.w3, begin, end, own, cpu::into<W>(u[first].data(), inner));
    });
    // z = silu(a) u weight, quantised
    dsv4::swiglu(e, a, u, view<const W, 1>(r.weight), limit, a);
    const auto middle = cpu::quantised_digits(e, scratch, a);
    // y = w2 z
    for (index_t s = 0; s < choices; ++s) row[s] = s;
    tasks(r.actives, d, [&](index_t i, index_t begin, index_t end) {
      const auto own = middle.of(row.data() + r.first[i], r.count(i));
      cpu::multiply_fp4<W>(all[static_cast<std::size_t>(r.active[i])].w2, begin, end, own,
                           cpu::into<W>(y[r.first[i]].data(), d));
    });
  }

  template <class P, class A>
  static void one_by_one(E& e, workspace& scratch, view<A, 2> x, const cpu::sorted_routes<W>& r,
                         const std::vector<expert_weights<>>& all, double limit, view<A, 2> y) {
    for (index_t i = 0; i < r.actives; ++i) {
      const workspace::scope here(scratch);
      const index_t first = r.first[i], n = r.count(i);
      auto own = scratch.take<A>(n, x.extent(1));
      for (index_t s = 0; s < n; ++s) std::copy_n(x[r.token[first + s]].data(), x.extent(1), own[s].data());
      expert<P>(e, scratch, own, all[static_cast<std::size_t>(r.active[i])],
                view<const W, 1>(r.weight.rows(first, first + n)), limit, y.rows(first, first + n));
    }
  }
};

}  // namespace kernel
}  // namespace dsv4
