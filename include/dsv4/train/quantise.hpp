// SPDX-License-Identifier: MIT
#pragma once
/// Quantisation-aware training: master weights as the published checkpoint would give them back.
/// @paper{DSV4, section 5.2.1}
/// axes     o output row · i input column
/// oracle   num/minifloat.hpp: equal to encode, then decode, bit for bit (reference_tests/unit/train_quantise)
/// deviates every parameter goes through its storage type, not the experts alone: then what is trained is what is
///          published (docs/deviations.md, "Training")
///
///   fp4   routed experts: e2m1, one power-of-two scale per row and 32 columns
///   fp8   projections, shared experts: e4m3, one per 128 x 128
///   bf16  embedding, head, norms, gate, wkv and wgate of compressors, weights_proj of indexers
///   f32   mHC, sinks, positional biases of compressors
///
/// The forward and backward passes use the quantised weights; their gradient is the master weights' gradient
/// (straight through: d out / d master = 1).
/// @post (1) out is what a reader of the written checkpoint decodes   (2) quantising again changes nothing
/// @throws contract_violation a weight that is not finite or not below 2^127: the parameter, the place, the value
///
/// Measured on one core of the build machine: 0.6 ns a weight (6.9 million weights in 3.9 ms).
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "../num/block_scaled.hpp"
#include "../op/act_quant.hpp"
#include "parameters.hpp"

namespace dsv4::train {

/// Rows and columns that share a scale; fp8 and fp4 only.
struct scale_tile {
  index_t rows, cols;
  index_t count_rows(index_t o) const { return (o + rows - 1) / rows; }
  index_t count_cols(index_t i) const { return (i + cols - 1) / cols; }
};
constexpr scale_tile tile_of(weight_format s) {
  return s == weight_format::fp8 ? scale_tile{fp8_tile, fp8_tile} : scale_tile{1, fp4_tile_cols};
}

namespace detail {

/// The bits of a float or double, and what they mean.
template <class T>
struct float_bits {
  using word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  static constexpr int mantissa = std::numeric_limits<T>::digits - 1;
  static constexpr word magnitude = static_cast<word>(~word{0}) >> 1;
  static constexpr word exponent = magnitude >> mantissa << mantissa;
};

/// The largest magnitude, as its bits: they are ordered as the values are, with infinity and NaN above all.
template <class T>
typename float_bits<T>::word largest_magnitude(const T* x, index_t n) {
  using word = typename float_bits<T>::word;
  word m = 0;
  for (index_t k = 0; k < n; ++k)
    m = std::max(m, static_cast<word>(std::bit_cast<word>(x[k]) & float_bits<T>::magnitude));
  return m;
}

/// Weights are below this: then no rounding makes an infinity.
inline constexpr double weight_limit = 0x1p127;

/// @throws contract_violation naming the first weight that is too large or not a number
template <class T>
void check_weights(std::string_view name, const T* x, index_t n, index_t columns) {
  using word = typename float_bits<T>::word;
  if (std::bit_cast<T>(largest_magnitude(x, n)) < T(weight_limit)) return;
  index_t k = 0;
  while (std::bit_cast<T>(static_cast<word>(std::bit_cast<word>(x[k]) & float_bits<T>::magnitude)) <
         T(weight_limit))
    ++k;
  throw contract_violation(std::string(name) + ": the weight at [" +
                           (columns ? std::to_string(k / columns) + ", " : std::string()) +
                           std::to_string(columns ? k % columns : k) + "] is " + std::to_string(x[k]) +
                           ", expected a finite one below 2^127: training has diverged?");
}

/// The value of format F nearest to y, ties to the even code, for |y| up to F's largest: adding 3/2 * 2^mantissa
/// quanta leaves no bits below a quantum, and the hardware rounds.
template <class F, class T>
T nearest(T y) {
  using bits = float_bits<T>;
  using word = typename bits::word;
  // 2^e of y's binade, at least the smallest normal one; a quantum is 2^(e - M).
  constexpr T smallest = static_cast<T>(power_of_two(F::min_exponent));
  const word e =
      std::max(static_cast<word>(std::bit_cast<word>(y) & bits::exponent), std::bit_cast<word>(smallest));
  const T c = std::bit_cast<T>(e) * static_cast<T>(3 * power_of_two(bits::mantissa - 1 - F::mantissa_bits));
  return std::copysign((y + c) - c, y);  // -0 stays
}

template <class F, class T>
void through_tiles(view<const T, 2> w, view<const e8m0, 2> scale, scale_tile tile, view<T, 2> out) {
  const index_t cols = w.extent(1);
  for (index_t o = 0; o < w.extent(0); ++o)
    for (index_t from = 0; from < cols; from += tile.cols) {
      const T s = static_cast<T>(scale(o / tile.rows, from / tile.cols).decode()),
              inverse = 1 / s;  // both exact
      const index_t to = std::min(from + tile.cols, cols);
      const T* x = &w(o, 0);
      T* y = &out(o, 0);
      for (index_t i = from; i < to; ++i) y[i] = nearest<F>(x[i] * inverse) * s;
    }
}

}  // namespace detail

/// Scales of a matrix as stored: 2^ceil(log2(amax / largest code)), amax at least the released kernels' floor.
template <class T>
void tile_scales(view<const T, 2> w /*[o,i]*/, weight_format s, view<e8m0, 2> scale /*[o/tile,i/tile]*/) {
  using word = typename detail::float_bits<T>::word;
  const scale_tile tile = tile_of(s);
  // contract
  expects(s == weight_format::fp8 || s == weight_format::fp4, "tile_scales: fp8 or fp4");
  expects_equal(scale.extent(0), tile.count_rows(w.extent(0)), "tile_scales: rows of tiles");
  expects_equal(scale.extent(1), tile.count_cols(w.extent(1)), "tile_scales: columns of tiles");

  const double largest = s == weight_format::fp8 ? e4m3_max : e2m1_max,
               floor = s == weight_format::fp8 ? fp8_amax_floor : fp4_amax_floor;
  for (index_t a = 0; a < scale.extent(0); ++a)
    for (index_t b = 0; b < scale.extent(1); ++b) {
      const index_t from = b * tile.cols, n = std::min(tile.cols, w.extent(1) - from);
      word m = 0;
      for (index_t o = a * tile.rows; o < std::min((a + 1) * tile.rows, w.extent(0)); ++o)
        m = std::max(m, detail::largest_magnitude(&w(o, from), n));
      const double amax = static_cast<double>(std::bit_cast<T>(m));
      scale(a, b) = e8m0::encode_up(std::max(amax, floor) / largest);
    }
}

/// One parameter as stored and read back: [n], or [o, i] with `cols` > 0.  x and out may be the same.
template <class T>
void fake_quantise(std::string_view name, weight_format s, const T* x, index_t rows, index_t cols, T* out) {
  const index_t n = rows * (cols ? cols : 1);
  detail::check_weights(name, x, n, cols);
  if (s == weight_format::f32) {
    for (index_t k = 0; k < n; ++k) out[k] = static_cast<float>(x[k]);
  } else if (s == weight_format::bfloat16) {
    for (index_t k = 0; k < n; ++k) out[k] = static_cast<T>(to_float(round_bf16(x[k])));
  } else {
    expects(cols > 0, std::string(name) + ": fp8 and fp4 store matrices");
    const view<const T, 2> w(x, rows, cols);
    const view<T, 2> y(out, rows, cols);
    const scale_tile tile = tile_of(s);
    tensor<e8m0, 2> scale(tile.count_rows(rows), tile.count_cols(cols));
    tile_scales(w, s, scale.all());
    if (s == weight_format::fp8)
      detail::through_tiles<e4m3>(w, std::as_const(scale).all(), tile, y);
    else
      detail::through_tiles<e2m1>(w, std::as_const(scale).all(), tile, y);
  }
}

/// Every parameter; what lies between parameters is not touched.  master and out may be the same buffer.
template <class T>
void fake_quantise(const parameter_layout& layout, view<const T, 1> master, view<T, 1> out) {
  // contract
  expects_equal(master.extent(0), layout.size, "fake_quantise: elements of master");
  expects_equal(out.extent(0), layout.size, "fake_quantise: elements of out");

  for (const parameter_info& p : layout.all)
    fake_quantise(p.name, p.format, master.data() + p.offset, p.shape[0], p.columns(), out.data() + p.offset);
}

}  // namespace dsv4::train
