// SPDX-License-Identifier: MIT
#pragma once
/// FP4 weights times FP8 activations in exact integers, in both accumulation modes.
/// @paper{DSV4, section 5.2.1}
/// axes     t token · o output row · k input channel (contracted) · b scale block of 32 columns
/// oracle   kernel::linear<exec::ref>
/// deviates none
///
/// An e4m3 code is an integer v of 2^-9 units, |v| <= 229376 = 448 * 2^9.  It is written with three
/// signed digits, v = d0 + 64 d1 + 4096 d2, d0 and d1 in [-32, 31], |d2| <= 57.  An e2m1 code, doubled
/// and biased, is u = 2 w + 12 in 0..24.  Per digit vpmaddubsw forms u d + u d (at most 24 * 57 * 2),
/// even and odd columns add up to 5472 < 2^15, vpmaddwd with 1, 64, 4096 widens to 32 bits, and the bias
/// is taken off with a sum known per token: exact block sums of (2 w) v, in 2^-10 units.
///
/// Two blocks of 32 fill one register: lanes 0..3 hold block 2j, lanes 4..7 block 2j + 1.
/// Order of sums.  Every lane holds 8 columns; total = fma(lane, scale_w * scale_x, total) in block order;
/// the lanes are added in a fixed tree.  The same for one token and for many: a tile of weights is merely
/// kept as biased bytes instead of nibbles.
#include <array>

#include "../parallel.hpp"
#include "../simd_integer.hpp"
#include "rows.hpp"

namespace dsv4::cpu {

inline constexpr index_t fp4_step = 64;  // columns of a step; check: 64 == 2 * 32
inline constexpr int digits = 3;
inline constexpr int digit_base = 64;            // check: 64 == 2**6
inline constexpr double product_unit = 0x1p-10;  // check: 2**-10 == 2**-9 * 2**-1

namespace detail {
struct code_digits {
  std::int32_t value;  // in units of 2^-9
  std::int8_t digit[digits];
};
/// Digits of every e4m3 code; NaN counts as 0 (activations are clamped before they are coded).
inline std::array<code_digits, 256> make_code_digits() {
  std::array<code_digits, 256> all{};
  for (unsigned c = 0; c < 256; ++c) {
    const e4m3 code = e4m3::from_bits(c);
    auto& d = all[c];
    d.value = code.is_nan() ? 0 : static_cast<std::int32_t>(code.decode() * 0x1p9);
    std::int32_t rest = d.value;
    for (int i = 0; i < digits - 1; ++i) {
      const std::int32_t low = ((rest + digit_base / 2) & (digit_base - 1)) - digit_base / 2;
      d.digit[i] = static_cast<std::int8_t>(low);
      rest = (rest - low) / digit_base;
    }
    d.digit[digits - 1] = static_cast<std::int8_t>(rest);
  }
  return all;
}
inline const std::array<code_digits, 256>& all_code_digits() {
  static const std::array<code_digits, 256> all = make_code_digits();
  return all;
}
}  // namespace detail

/// 64 columns of one token: a digit plane is 32 even and 32 odd columns; bias is 12 sum(v) per lane.
struct digit_step {
  alignas(32) std::int8_t plane[digits][2][32];  // check: 32 == 64 / 2
  alignas(32) std::int32_t bias[8];
};

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
  const auto& table = detail::all_code_digits();
  parallel_for(tokens, 4, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t s = 0; s < steps; ++s) {
        digit_step& out = rows(t, s);
        const e4m3* code = x.code.data() + (from + t) * k + s * fp4_step;
        const index_t n = std::min(fp4_step, k - s * fp4_step);
        if (n < fp4_step) std::memset(&out, 0, sizeof out);
        for (index_t lane = 0; lane < ceil_div(n, 8); ++lane) {
          std::int32_t sum = 0;
          for (index_t c = lane * 8; c < std::min(lane * 8 + 8, n); ++c) {
            const auto& d = table[code[c].bits];
            for (int i = 0; i < digits; ++i) out.plane[i][c % 2][c / 2] = d.digit[i];
            sum += d.value;
          }
          out.bias[lane] = simd::e2m1_bias * sum;
        }
      }
  });
  return {rows, x.scale.rows(from, from + tokens), nullptr, tokens};
}

/// The exact sums (2 w) v of a step, 8 columns per lane.
inline simd::i32x8 block_sums(simd::e2m1_pair w, const digit_step& x) {
  const auto digit = [&](int i) {
    return simd::add(simd::dot_pairs(w.even, simd::load_i8(x.plane[i][0])),
                     simd::dot_pairs(w.odd, simd::load_i8(x.plane[i][1])));
  };
  const auto low = simd::subtract(simd::widen_pairs(digit(0), 1), simd::load_i32(x.bias));
  const auto high = simd::add(simd::widen_pairs(digit(1), digit_base),
                              simd::widen_pairs(digit(2), digit_base * digit_base));
  return simd::add(low, high);
}

/// total += sums * the two block scales * the activations' scale.
inline void add_blocks(simd::i32x8 sums, const float* scale_w, float scale_x, simd::f32x8& total) {
  const auto s = simd::mul(simd::two_scales(scale_w), simd::set(scale_x));
  total = simd::fma(simd::to_float(sums), s, total);
}
inline void add_blocks(simd::i32x8 sums, const float* scale_w, float scale_x, simd::f64x4& total) {
  const auto s = double(scale_x);
  total = simd::fma(simd::low_double(sums), simd::set(s * scale_w[0]), total);
  total = simd::fma(simd::high_double(sums), simd::set(s * scale_w[1]), total);
}

/// Block scales of row o times product_unit as floats, an even number of them (0 behind the end).
inline void decode_fp4_scales(const weight_matrix& w, index_t o, float* out) {
  const index_t n = w.scale_cols();
  const std::byte* row = w.scale + (o / w.tile_rows) * n * (w.scale_type == dtype::f32 ? 4 : 1);
  if (w.scale_type == dtype::f32) {
    std::memcpy(out, row, static_cast<std::size_t>(n) * 4);
    for (index_t b = 0; b < n; ++b) out[b] *= static_cast<float>(product_unit);
  } else {
    for (index_t b = 0; b < n; ++b) {
      // 2^(byte - 127): the exponent field of a float, whose smallest two are subnormal.
      const auto e = std::to_integer<std::uint32_t>(row[b]);
      out[b] = std::bit_cast<float>(e ? e << 23 : std::uint32_t{1} << 22) * static_cast<float>(product_unit);
    }
  }
  if (n % 2) out[n] = 0;
}

/// y[r] = row r . x for R rows, r-th weights of a step from `weights(r, step)`.
template <class W, int R, class F>
inline void dot_fp4(F&& weights, const float* const* scale, const digit_step* x, const float* scale_x,
                    index_t steps, W* y) {
  simd::vector<W> total[std::size_t{R}];
  DSV4_UNROLL
  for (int r = 0; r < R; ++r) total[r] = simd::set(W(0));
  for (index_t s = 0; s < steps; ++s) DSV4_UNROLL
  for (int r = 0; r < R; ++r)
    add_blocks(block_sums(weights(r, s), x[s]), scale[r] + 2 * s, scale_x[s * fp4_step / fp8_tile], total[r]);
  DSV4_UNROLL
  for (int r = 0; r < R; ++r) y[r] = simd::sum(total[r]);
}

/// y(i, o + r) for R rows of w from o on and every row i of x.
template <class W, int R>
void multiply_fp4_rows(const weight_matrix& w, index_t o, const digit_rows& x, workspace& scratch,
                       const destination<W>& y) {
  const workspace::scope here(scratch);
  const index_t steps = x.step.extent(1), step_bytes = fp4_step / 2, tail = w.row_bytes() % step_bytes;
  const index_t whole = w.row_bytes() / step_bytes;
  auto scales = scratch.take<float>(R, steps * 2);
  const float* scale[std::size_t{R}];
  alignas(32) std::byte last[std::size_t{R}][fp4_step / 2] = {};
  const std::byte* row[std::size_t{R}];
  for (int r = 0; r < R; ++r) {
    decode_fp4_scales(w, o + r, scales[r].data());
    scale[r] = scales[r].data();
    row[r] = w.row(o + r);
    std::copy_n(row[r] + whole * step_bytes, tail, last[r]);
  }
  const auto nibbles = [&](int r, index_t s) {
    const std::byte* p = s < whole ? row[r] + s * step_bytes : last[r];
    simd::prefetch(p + R * w.row_bytes());
    return simd::e2m1_biased(p);
  };
  W sums[std::size_t{R}];
  if (x.count == 1) {
    dot_fp4<W, R>(nibbles, scale, x.step[x.at(0)].data(), x.scale[x.at(0)].data(), steps, sums);
    return y(0, o, sums, R);
  }
  // Many tokens: nibbles to bytes once.
  auto bytes = scratch.take<std::int8_t>(index_t{R}, steps, fp4_step);
  for (int r = 0; r < R; ++r)
    for (index_t s = 0; s < steps; ++s) {
      const auto pair = nibbles(r, s);
      simd::store_i8(&bytes(r, s, 0), pair.even);
      simd::store_i8(&bytes(r, s, fp4_step / 2), pair.odd);
    }
  const auto unpacked = [&](int r, index_t s) {
    const std::int8_t* p = bytes.data() + (r * steps + s) * fp4_step;
    return simd::e2m1_pair{simd::load_i8(p), simd::load_i8(p + fp4_step / 2)};
  };
  for (index_t i = 0; i < x.count; ++i) {
    dot_fp4<W, R>(unpacked, scale, x.step[x.at(i)].data(), x.scale[x.at(i)].data(), steps, sums);
    y(i, o, sums, R);
  }
}

/// Rows [o0, o1) of w times every row of x.
template <class W>
void multiply_fp4(const weight_matrix& w, index_t o0, index_t o1, const digit_rows& x,
                  const destination<W>& y) {
  constexpr int R = 4;
  workspace& scratch = local_scratch();
  index_t o = o0;
  for (; o + R <= o1; o += R) multiply_fp4_rows<W, R>(w, o, x, scratch, y);
  for (; o < o1; ++o) multiply_fp4_rows<W, 1>(w, o, x, scratch, y);
}

}  // namespace dsv4::cpu
