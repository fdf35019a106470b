// SPDX-License-Identifier: MIT
#pragma once
/// Products with a weight matrix in any stored format, on all cores.
/// @paper{DSV4, section 2.3.4 and 5.2.1}
/// axes     t token · k input channel (contracted) · o output channel · g group
/// oracle   kernel::linear<exec::ref>
/// deviates accumulate::fast sums in float (cpu/op/dot.hpp and cpu/op/dot_fp4.hpp say in which order)
///
/// Weights are read where they lie.  Which kernel:
///   FP4 weights x FP8 activations   exact integers                    dot_fp4.hpp
///   one token                       rows decoded in registers         dot.hpp, dot_rows
///   more tokens                     tiles decoded once                dot.hpp, multiply_tile
///   scale tiles that are no multiple of 8 columns: rows decoded one code at a time, then the tile kernel
/// Tasks are pieces of output rows; only when those are few are the tokens cut as well.
#include "../../op/linear.hpp"
#include "dot.hpp"
#include "dot_fp4.hpp"

namespace dsv4 {

namespace cpu {

inline constexpr index_t weights_per_task = 1 << 16;  // ~10 us of one core; check: 65536 == 2**16
// Activations are packed for the tile kernel by so many bytes at a time, but never fewer or more tokens than these.
inline constexpr index_t bytes_of_packed = index_t{4} << 20;  // check: 4194304 == 4 * 2**20
inline constexpr index_t least_tokens = 48, most_tokens = 256;

/// f(std::type_identity<F>) for the C++ type F of stored type t.  @throws internal_error on integers.
template <class F>
decltype(auto) with_format(dtype t, F&& f) {
  switch (t) {
    case dtype::f64: return f(std::type_identity<double>{});
    case dtype::f32: return f(std::type_identity<float>{});
    case dtype::f16: return f(std::type_identity<f16>{});
    case dtype::bf16: return f(std::type_identity<bf16>{});
    case dtype::f8_e4m3: return f(std::type_identity<e4m3>{});
    case dtype::f4_e2m1: return f(std::type_identity<e2m1>{});
    default: throw internal_error("linear: no arithmetic on " + std::string(name_of(t)));
  }
}

/// Output rows [begin, end) of a matrix: all of them, or those of one group.
struct row_range {
  index_t begin, end;
  index_t size() const { return end - begin; }
};

/// One token, xs expanded times half_unit.
template <class W, class F>
void multiply_row(const W* xs, const weight_matrix& w, row_range all, const destination<W>& y) {
  constexpr int R = rows_in_registers;
  parallel_for(ceil_div(all.size(), R), ceil_div(weights_per_task, w.cols * R),
               [&](index_t begin, index_t end) {
                 workspace& scratch = local_scratch();
                 const workspace::scope here(scratch);
                 row_scales<W> scales(scratch, w, half_unit<W, F>, R);
                 const auto rows = [&]<int N>(index_t o) {
                   const std::byte* row[std::size_t{N}];
                   const W* scale[std::size_t{N}];
                   W sum[std::size_t{N}];
                   scales.point(o, N, scale);
                   for (int r = 0; r < N; ++r) row[r] = w.row(o + r);
                   dot_rows<W, F, N>(row, scale, xs, w.cols, block_of(w), row[0] + bytes_ahead, sum);
                   y(0, o, sum, N);
                 };
                 index_t o = all.begin + begin * R;
                 const index_t last = std::min(all.begin + end * R, all.end);
                 for (; o + R <= last; o += R) rows.template operator()<R>(o);
                 for (; o < last; ++o) rows.template operator()<1>(o);
               });
}

/// Packed tokens, times half_unit.
template <class W, class F>
void multiply_tiles(const packed_activations<W>& x, const weight_matrix& w, row_range all,
                    const destination<W>& y) {
  // Enough tasks for the threads: cut the panels too when there are few tiles.
  const index_t tiles = ceil_div(all.size(), rows_of_tile), threads = concurrency(), panels = x.panels();
  const index_t cuts = std::clamp<index_t>(threads == 1 ? 1 : 2 * threads / tiles, 1, ceil_div(panels, 4));
  parallel_for(tiles * cuts, 1, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      const index_t o = all.begin + i / cuts * rows_of_tile, cut = i % cuts;
      multiply_tile<W, F>(w, o, std::min(rows_of_tile, all.end - o), x, panels * cut / cuts,
                          panels * (cut + 1) / cuts, y);
    }
  });
}

/// Rows decoded to plain W one code at a time: for layouts that no kernel reads in place.
template <class W>
void multiply_decoded(const packed_activations<W>& x, const weight_matrix& w, row_range all,
                      const destination<W>& y) {
  parallel_for(ceil_div(all.size(), rows_of_tile), 1, [&](index_t begin, index_t end) {
    workspace& scratch = local_scratch();
    const workspace::scope here(scratch);
    auto tile = scratch.take<W>(rows_of_tile, w.cols);
    weight_matrix plain;
    plain.type = dtype_of<W>;
    plain.data = reinterpret_cast<const std::byte*>(tile.data());
    plain.cols = w.cols;
    for (index_t i = begin; i < end; ++i) {
      const index_t o = all.begin + i * rows_of_tile;
      plain.rows = std::min(rows_of_tile, all.end - o);
      for (index_t r = 0; r < plain.rows; ++r)
        for (index_t k = 0; k < w.cols; ++k) tile(r, k) = static_cast<W>(w.at(o + r, k));
      multiply_tile<W, W>(plain, 0, plain.rows, x, 0, x.panels(), y.from(0, o));
    }
  });
}

/// FP4 x FP8, exact integers.
template <class W>
void multiply_integers(const quantised_activations& x, const weight_matrix& w, row_range all,
                       const destination<W>& y) {
  const index_t row = ceil_div(w.cols, fp4_step) * index_t{sizeof(digit_step)};
  const index_t chunk = std::clamp(bytes_of_packed / row, least_tokens, most_tokens);
  for (index_t from = 0; from < x.rows(); from += chunk) {
    workspace& scratch = local_scratch();
    const workspace::scope here(scratch);
    const auto rows = make_digits(scratch, x, from, std::min(chunk, x.rows() - from));
    parallel_for(ceil_div(all.size(), 4), ceil_div(weights_per_task, 4 * w.cols),
                 [&](index_t begin, index_t end) {
                   multiply_fp4<W>(w, all.begin + begin * 4, std::min(all.begin + end * 4, all.end), rows,
                                   y.from(from, 0));
                 });
  }
}

/// y(t, o) = x[t] . w[o] for any rows x (plain_rows, quantised_rows) and the rows `all` of w.
template <class W, class X>
void multiply(const X& x, const weight_matrix& w, row_range all, const destination<W>& y) {
  if (x.count == 0 || all.size() == 0) return;
  workspace& scratch = local_scratch();
  const bool in_place = !w.scale || w.tile_cols % simd::group_size == 0;
  const W factor = in_place && w.type == dtype::f8_e4m3 ? half_unit<W, e4m3> : W(1);
  // One token: expand it once, all rows read it.
  if (in_place && x.count == 1) {
    const workspace::scope here(scratch);
    auto xs = scratch.take<W>(padded(w.cols));
    x.template expand<W>(0, 0, w.cols, factor, xs.data());
    with_format(w.type, [&]<class F>(std::type_identity<F>) { multiply_row<W, F>(xs.data(), w, all, y); });
    return;
  }
  // More: as many as the packed form has room for.
  const index_t chunk =
      std::clamp(bytes_of_packed / (padded(w.cols) * index_t{sizeof(W)}), least_tokens, most_tokens);
  for (index_t from = 0; from < x.count; from += chunk) {
    const workspace::scope here(scratch);
    const auto packed = pack<W>(scratch, x, from, std::min(chunk, x.count - from),
                                columns_at_once<W>(in_place ? block_of(w) : free_block), factor);
    if (in_place)
      with_format(w.type, [&]<class F>(std::type_identity<F>) {
        multiply_tiles<W, F>(packed, w, all, y.from(from, 0));
      });
    else
      multiply_decoded<W>(packed, w, all, y.from(from, 0));
  }
}
template <class W>
void multiply(const quantised_activations& x, const weight_matrix& w, row_range all,
              const destination<W>& y) {
  if (w.type == dtype::f4_e2m1 && w.scale && w.tile_cols == fp4_tile_cols)
    multiply_integers<W>(x, w, all, y);
  else
    multiply<W>(quantised_rows(x), w, all, y);
}

}  // namespace cpu

namespace kernel {

template <accumulate A>
struct linear<exec::basic_cpu<A>> {
  using E = exec::basic_cpu<A>;
  using W = wide_t<E>;

  // einsum: t k, o k -> t o
  template <class T, class Y>
  static void run(E&, const view<const T, 2>& x, const weight_matrix& w, view<Y, 2> y) {
    cpu::multiply<W>(cpu::plain_rows<T>{x.data(), x.extent(0), x.extent(1), x.extent(1)}, w, {0, w.rows},
                     cpu::into<W>(y.data(), y.extent(1)));
  }
  template <class Y>
  static void run(E&, const quantised_activations& x, const weight_matrix& w, view<Y, 2> y) {
    cpu::multiply<W>(x, w, {0, w.rows}, cpu::into<W>(y.data(), y.extent(1)));
  }
};

template <accumulate A>
struct grouped_linear<exec::basic_cpu<A>> {
  using E = exec::basic_cpu<A>;
  using W = wide_t<E>;

  // einsum: t g k, g r k -> t g r
  template <class T, class Y>
  static void run(E&, view<const T, 3> x, const weight_matrix& w, view<Y, 3> y) {
    const index_t groups = x.extent(1), k = x.extent(2), r = y.extent(2);
    for (index_t g = 0; g < groups; ++g)
      cpu::multiply<W>(cpu::plain_rows<T>{x.data() + g * k, x.extent(0), k, groups * k}, w,
                       {g * r, (g + 1) * r}, cpu::into<W>(y.data(), groups * r));
  }
};

}  // namespace kernel
}  // namespace dsv4
