// SPDX-License-Identifier: MIT
#pragma once
/// FP4 weights times FP8 activations in exact integers, in both accumulation modes.
/// @paper{DSV4, section 5.2.1}
/// axes     t token · o output row · k input channel (contracted) · b scale block of 32 columns
/// oracle   kernel::linear<exec::ref>
/// deviates none
///
/// An e4m3 code is an integer v of 2^-9 units, |v| <= 229376 = 448 * 2^9; it has 4 significant bits, so what a step of
/// 64 columns holds is nearly always v = 2^u (d1 + 256 d2) with one u and two signed bytes.  u is the least that lets
/// the step's largest v into two bytes, at most 3.  Only a step that holds a v of less than 2^6 that is no multiple of
/// 2^u is `fine` and has a third digit: v = d0 + 2^u (d1 + 256 d2), d0 in [-4, 3].
/// An e2m1 code, doubled and biased, is 2 w + 12 in 0..24.  Per digit vpmaddubsw forms sums of two products, even and
/// odd columns add up to 4 * 24 * 128 = 12288 < 2^15, vpmaddwd with 2^u, 2^u 256 and 1 widens to 32 bits, and the bias
/// is taken off with a sum known per token: exact sums of (2 w) v, in 2^-10 units.
///
/// Two blocks of 32 fill one register: lanes 0..3 hold block 2j, lanes 4..7 block 2j + 1.  Four rows together are added
/// across: lane r is then the block sum of row r, lane 4 + r that of its second block.
/// Order of sums.  Block sums are integers; total = fma(sum, scale_w * scale_x, total) over the even blocks and over the
/// odd ones, then both are added.  The same for one token and for many: a tile of weights is merely kept as biased bytes
/// instead of nibbles.
#include <array>

#include "../parallel.hpp"
#include "../simd_integer.hpp"
#include "rows.hpp"

namespace dsv4::cpu {

inline constexpr index_t fp4_step = 64;                         // columns of a step; check: 64 == 2 * 32
inline constexpr index_t steps_of_scale = fp8_tile / fp4_step;  // check: 2 == 128 / 64
inline constexpr int fp4_rows = 4;                              // summed together
inline constexpr double product_unit = 0x1p-10;                 // check: 2**-10 == 2**-9 * 2**-1
inline constexpr std::int32_t two_digits = 32639;               // check: 32639 == 127 * 256 + 127

namespace detail {
/// Every e4m3 code in units of 2^-9; NaN counts as 0 (activations are clamped before they are coded).
inline std::array<std::int32_t, 256> make_code_values() {
  std::array<std::int32_t, 256> all{};
  for (unsigned c = 0; c < 256; ++c) {
    const e4m3 code = e4m3::from_bits(c);
    all[c] = code.is_nan() ? 0 : static_cast<std::int32_t>(code.decode() * 0x1p9);
  }
  return all;
}
inline const std::array<std::int32_t, 256>& all_code_values() {
  static const std::array<std::int32_t, 256> all = make_code_values();
  return all;
}
}  // namespace detail

/// 64 columns of one token: a digit plane is 32 even and 32 odd columns; bias is 12 sum(v) of either block, four times.
struct digit_step {
  alignas(32) std::int8_t plane[3][2][32];  // d1, d2, d0; check: 32 == 64 / 2
  alignas(32) std::int32_t bias[8];
  std::int16_t factor[2];  // 2^u, 2^u 256
  bool fine;               // whether any d0 is not 0
};

/// Digits of n <= 64 codes; zeros behind them.
inline void make_step(const e4m3* code, index_t n, digit_step& out) {
  const auto& table = detail::all_code_values();
  std::int32_t v[fp4_step] = {}, largest = 0;
  for (index_t c = 0; c < n; ++c) v[c] = table[code[c].bits];
  for (const std::int32_t one : v) largest = std::max(largest, std::abs(one));
  int u = 0;
  while ((largest >> u) + 1 > two_digits) ++u;
  const std::int32_t half = (1 << u) >> 1;
  std::int32_t sum[2] = {}, rest = 0;
  for (index_t c = 0; c < fp4_step; ++c) {
    const std::int32_t q = (v[c] + half) >> u, low = v[c] - q * (1 << u), d1 = ((q + 128) & 255) - 128;
    out.plane[0][c % 2][c / 2] = static_cast<std::int8_t>(d1);
    out.plane[1][c % 2][c / 2] = static_cast<std::int8_t>((q - d1) / 256);
    out.plane[2][c % 2][c / 2] = static_cast<std::int8_t>(low);
    rest |= low;
    sum[c / fp4_tile_cols] += v[c];
  }
  for (int i = 0; i < 8; ++i) out.bias[i] = simd::e2m1_bias * sum[i / 4];
  out.factor[0] = static_cast<std::int16_t>(1 << u);
  out.factor[1] = static_cast<std::int16_t>(256 << u);
  out.fine = rest != 0;
}

/// Activations as digits: all tokens, or those of one expert.
struct digit_rows {
  view<digit_step, 2> step;        // [t, k / 64]
  view<const float, 2> scale;      // [t, k / 128]
  const index_t* token = nullptr;  // row i is token[i]; null: row i is token i
  index_t count = 0;

  index_t at(index_t i) const { return token ? token[i] : i; }
  /// Rows that are the `n` listed tokens.
  digit_rows of(const index_t* tokens, index_t n) const { return {step, scale, tokens, n}; }
};

/// Digits of rows [from, from + tokens) of x; zeros behind the last column.
inline digit_rows make_digits(workspace& scratch, const quantised_activations& x, index_t from,
                              index_t tokens) {
  const index_t k = x.cols(), steps = ceil_div(k, fp4_step);
  auto rows = scratch.take<digit_step>(tokens, steps);
  parallel_for(tokens, 4, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t s = 0; s < steps; ++s)
        make_step(x.code.data() + (from + t) * k + s * fp4_step, std::min(fp4_step, k - s * fp4_step),
                  rows(t, s));
  });
  return {rows, x.scale.rows(from, from + tokens), nullptr, tokens};
}

/// The exact sums (2 w) v of a step for four rows: lane r of row r's first block, lane 4 + r of its second.
template <bool Fine, class F>
inline simd::i32x8 block_sums(F&& weights, index_t s, const digit_step& x) {
  const auto low = simd::set(x.factor[0]), high = simd::set(x.factor[1]), one = simd::set(std::int16_t{1});
  simd::i32x8 part[std::size_t{fp4_rows}];
  DSV4_UNROLL
  for (int r = 0; r < fp4_rows; ++r) {
    const simd::e2m1_pair w = weights(r, s);
    const auto digit = [&](int i) {
      return simd::add(simd::dot_pairs(w.even, simd::load_i8(x.plane[i][0])),
                       simd::dot_pairs(w.odd, simd::load_i8(x.plane[i][1])));
    };
    part[r] = simd::add(simd::widen_pairs(digit(0), low), simd::widen_pairs(digit(1), high));
    if constexpr (Fine) part[r] = simd::add(part[r], simd::widen_pairs(digit(2), one));
  }
  return simd::subtract(simd::sums_of_halves(part[0], part[1], part[2], part[3]), simd::load_i32(x.bias));
}

/// Sums of four rows, over even and odd blocks apart.
struct fp4_totals_float {
  simd::f32x8 both = simd::set(0.0f);
  void add(simd::i32x8 sums, const float* scale_w, float scale_x) {
    both = simd::fma(simd::to_float(sums),
                     simd::mul(simd::load(scale_w), simd::set(scale_x * static_cast<float>(product_unit))),
                     both);
  }
  void store(float* y) const {
    float v[8];
    simd::store(v, both);
    for (int r = 0; r < fp4_rows; ++r) y[r] = v[r] + v[fp4_rows + r];
  }
};
struct fp4_totals_double {
  simd::f64x4 even = simd::set(0.0), odd = simd::set(0.0);
  void add(simd::i32x8 sums, const double* scale_w, float scale_x) {
    const auto s = simd::set(scale_x * product_unit);
    even = simd::fma(simd::low_double(sums), simd::mul(simd::load(scale_w), s), even);
    odd = simd::fma(simd::high_double(sums), simd::mul(simd::load(scale_w + fp4_rows), s), odd);
  }
  void store(double* y) const {
    double v[8];
    simd::store(v, even);
    simd::store(v + 4, odd);
    for (int r = 0; r < fp4_rows; ++r) y[r] = v[r] + v[fp4_rows + r];
  }
};
template <class W>
using fp4_totals = std::conditional_t<std::is_same_v<W, float>, fp4_totals_float, fp4_totals_double>;

/// 2^(byte - 127) of n scale bytes: the exponent field, where a float's smallest is subnormal.
inline void decode_scale_bytes(const std::byte* from, index_t n, float* to) {
  for (index_t i = 0; i < n; ++i) {
    const auto e = std::to_integer<std::int32_t>(from[i]);
    to[i] = std::bit_cast<float>(std::max(e << 23, std::int32_t{1} << 22));
  }
}
inline void decode_scale_bytes(const std::byte* from, index_t n, double* to) {
  for (index_t i = 0; i < n; ++i)
    to[i] = std::bit_cast<double>((std::to_integer<std::int64_t>(from[i]) + (1023 - 127)) << 52);
}

/// Block scales of rows o[0..3], [b][4]; 0 behind the last block of a row.
template <class W>
void decode_fp4_scales(const weight_matrix& w, const index_t* o, view<W, 2> out /*[b,4]*/) {
  constexpr index_t piece = 16;
  const index_t n = w.scale_cols(), bytes = w.scale_type == dtype::f32 ? 4 : 1;
  const std::byte* row[fp4_rows];
  for (int r = 0; r < fp4_rows; ++r) row[r] = w.scale + (o[r] / w.tile_rows) * n * bytes;
  W* to = out.data();
  std::fill(to + n * fp4_rows, to + out.size(), W(0));
  if (w.scale_type == dtype::f32) {
    for (index_t i = 0; i < n * fp4_rows; ++i) {
      float s;
      std::memcpy(&s, row[i % fp4_rows] + 4 * (i / fp4_rows), 4);
      to[i] = static_cast<W>(s);
    }
    return;
  }
  std::byte all[piece * fp4_rows];
  index_t b = 0;
  for (; b + piece <= n; b += piece, to += piece * fp4_rows) {
    const std::byte* const from[fp4_rows] = {row[0] + b, row[1] + b, row[2] + b, row[3] + b};
    simd::interleave(from, all);
    decode_scale_bytes(all, piece * fp4_rows, to);
  }
  for (index_t i = 0; i < (n - b) * fp4_rows; ++i) all[i] = row[i % fp4_rows][b + i / fp4_rows];
  decode_scale_bytes(all, (n - b) * fp4_rows, to);
}

/// total += the four rows' products over steps [from, to); weights(r, step): row r's weights of a step.
template <class W, class F>
inline void add_steps(F&& weights, const W* scale, const digit_step* x, const float* scale_x, index_t from,
                      index_t to, fp4_totals<W>& total) {
  for (index_t s = from; s < to; ++s) {
    const auto sums = x[s].fine ? block_sums<true>(weights, s, x[s]) : block_sums<false>(weights, s, x[s]);
    total.add(sums, scale + 2 * fp4_rows * s, scale_x[s / steps_of_scale]);
  }
}

/// y(i, o + r) for n <= 4 rows of w from o on and every row i of x.
template <class W>
void multiply_fp4_rows(const weight_matrix& w, index_t o, index_t n, const digit_rows& x, workspace& scratch,
                       const destination<W>& y) {
  const workspace::scope here(scratch);
  constexpr index_t step_bytes = fp4_step / 2;
  const index_t steps = x.step.extent(1), tail = w.row_bytes() % step_bytes,
                whole = w.row_bytes() / step_bytes;
  auto scale = scratch.take<W>(2 * steps, fp4_rows);
  alignas(32) std::byte last[fp4_rows][step_bytes] = {};
  const std::byte* row[fp4_rows];
  index_t number[fp4_rows];
  for (int r = 0; r < fp4_rows; ++r) {
    number[r] = o + std::min<index_t>(r, n - 1);  // rows behind the end, not stored
    row[r] = w.row(number[r]);
    std::copy_n(row[r] + whole * step_bytes, tail, last[r]);
  }
  decode_fp4_scales<W>(w, number, scale);
  // Nibbles of the last step, which may be a part of one, come from a padded copy.
  const std::byte* next = row[0] + fp4_rows * w.row_bytes();
  const auto nibbles = [&row, next](int r, index_t s) {
    if (r % 2 == 0)
      simd::prefetch(next + (2 * s + r / 2) * index_t{alignment});  // two lines a step; check: 128 == 4 * 32
    return simd::e2m1_biased(row[r] + s * step_bytes);
  };
  const auto last_nibbles = [&last](int r, index_t) { return simd::e2m1_biased(last[r]); };
  W sums[fp4_rows];
  if (x.count == 1) {
    const digit_step* own = x.step[x.at(0)].data();
    const float* own_scale = x.scale[x.at(0)].data();
    fp4_totals<W> total;
    add_steps<W>(nibbles, scale.data(), own, own_scale, 0, whole, total);
    add_steps<W>(last_nibbles, scale.data(), own, own_scale, whole, steps, total);
    total.store(sums);
    return y(0, o, sums, n);
  }
  // Many tokens: nibbles to bytes once.
  auto bytes = scratch.take<std::int8_t>(steps, index_t{fp4_rows}, fp4_step);
  for (index_t s = 0; s < steps; ++s)
    for (int r = 0; r < fp4_rows; ++r) {
      const auto pair = s < whole ? nibbles(r, s) : last_nibbles(r, s);
      simd::store_i8(&bytes(s, r, 0), pair.even);
      simd::store_i8(&bytes(s, r, fp4_step / 2), pair.odd);
    }
  const auto unpacked = [all = bytes.data()](int r, index_t s) {
    const std::int8_t* p = all + (s * fp4_rows + r) * fp4_step;
    return simd::e2m1_pair{simd::load_i8(p), simd::load_i8(p + fp4_step / 2)};
  };
  for (index_t i = 0; i < x.count; ++i) {
    fp4_totals<W> total;
    add_steps<W>(unpacked, scale.data(), x.step[x.at(i)].data(), x.scale[x.at(i)].data(), 0, steps, total);
    total.store(sums);
    y(i, o, sums, n);
  }
}

/// Rows [o0, o1) of w times every row of x.
template <class W>
void multiply_fp4(const weight_matrix& w, index_t o0, index_t o1, const digit_rows& x,
                  const destination<W>& y) {
  workspace& scratch = local_scratch();
  for (index_t o = o0; o < o1; o += fp4_rows)
    multiply_fp4_rows<W>(w, o, std::min<index_t>(fp4_rows, o1 - o), x, scratch, y);
}

}  // namespace dsv4::cpu
