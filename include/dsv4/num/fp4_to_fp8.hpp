// SPDX-License-Identifier: MIT
#pragma once
/// FP4 weights as FP8 weights, without loss: how FP4-trained experts run through an FP8 product.
/// @paper{DSV4, section 5.2.1}
/// axes     o output row · i input column
/// oracle   brute force over every code and scale (reference_tests/unit/train_quantise)
/// deviates scales of FP4 tiles that hold only zeros are not looked at: zero is zero under any scale
///
/// One FP8 tile of 128 x 128 holds 512 FP4 tiles of 1 x 32, each with a scale S4.  With S8 = max S4 / 2^6,
///   code8 * S8 = code4 * S4,   code8 = code4 * 2^6 * S4 / max S4.
/// At the top 6 * 2^6 = 384 <= 448.  At the bottom 2^-9, the smallest e4m3, must divide code8: e2m1 is made of
/// halves, so S4 / max S4 >= 2^-14.  The released kernels ask for 2^-11: code8 >= 2^-6, no subnormal codes.
/// @throws unsupported the condition fails (the tile, both scales and where they are)   @throws contract_violation
/// the matrix is not FP4 with E8M0 scales, or the shapes disagree
#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "../core/contract.hpp"
#include "block_scaled.hpp"

namespace dsv4 {

/// How far the FP4 scales inside one FP8 tile may differ: the largest log2(max S4 / min S4).
enum class cast_limit {
  released = 11,  ///< what the released kernels assert
  exact = 14,     ///< what is lossless
};

inline constexpr int fp8_head_room = 6;  // check: 6 == floor(log2(448 / 6))
inline constexpr int e8m0_bias = 127;

/// The spread of the FP4 scales in one FP8 tile; scales as exponents of two.
struct fp4_spread {
  index_t tile_row = 0, tile_col = 0;  // of the FP8 tile
  int largest = 0, smallest = 0;
  index_t largest_row = 0, largest_col = 0, smallest_row = 0,
          smallest_col = 0;  // first element of the FP4 tile
  int ratio() const { return largest - smallest; }
};

namespace detail {
inline void check_fp4(const weight_matrix& w) {
  expects(w.type == dtype::f4_e2m1 && w.scale && w.scale_type == dtype::f8_e8m0 && w.tile_rows == 1 &&
              w.tile_cols == fp4_tile_cols,
          "fp4_to_fp8: expected FP4 with one E8M0 scale per row and 32 columns");
}
inline unsigned fp4_code(const weight_matrix& w, index_t o, index_t i) {
  const unsigned pair = std::to_integer<unsigned>(w.row(o)[i / 2]);
  return i % 2 ? pair >> 4 : pair & 15;
}
}  // namespace detail

/// Spread of FP8 tile (a, b); none when all of it is zero.  @throws unsupported a NaN scale
inline std::optional<fp4_spread> spread_of_tile(const weight_matrix& w, index_t a, index_t b) {
  std::optional<fp4_spread> s;
  const index_t last_row = std::min((a + 1) * fp8_tile, w.rows),
                last_col = std::min((b + 1) * fp8_tile, w.cols);
  for (index_t o = a * fp8_tile; o < last_row; ++o)
    for (index_t from = b * fp8_tile; from < last_col; from += fp4_tile_cols) {
      bool zero = true;
      for (index_t i = from; i < std::min(from + fp4_tile_cols, w.cols); ++i)
        zero = zero && (detail::fp4_code(w, o, i) & e2m1::magnitude_mask) == 0;
      if (zero) continue;
      const auto scale =
          e8m0::from_bits(std::to_integer<unsigned>(w.scale[o * w.scale_cols() + from / fp4_tile_cols]));
      if (scale.is_nan())
        throw unsupported("fp4_to_fp8: the scale of row " + std::to_string(o) + ", column " +
                          std::to_string(from) + " is NaN");
      const int e = scale.bits - e8m0_bias;
      if (!s) s = fp4_spread{a, b, e, e, o, from, o, from};
      if (e > s->largest) s->largest = e, s->largest_row = o, s->largest_col = from;
      if (e < s->smallest) s->smallest = e, s->smallest_row = o, s->smallest_col = from;
    }
  return s;
}

/// The FP8 tile whose FP4 scales differ most; none when the matrix is zero.
inline std::optional<fp4_spread> widest_spread(const weight_matrix& w /*[o,i]*/) {
  detail::check_fp4(w);
  std::optional<fp4_spread> widest;
  for (index_t a = 0; a * fp8_tile < w.rows; ++a)
    for (index_t b = 0; b * fp8_tile < w.cols; ++b) {
      const std::optional<fp4_spread> s = spread_of_tile(w, a, b);
      if (s && (!widest || s->ratio() > widest->ratio())) widest = s;
    }
  return widest;
}

/// The same values as e4m3 codes with one scale per tile of 128 x 128.  `name` stands in the message of a refusal.
inline void fp4_to_fp8(const weight_matrix& w /*[o,i]*/, view<e4m3, 2> code /*[o,i]*/,
                       view<e8m0, 2> scale /*[o/128,i/128]*/, cast_limit limit = cast_limit::released,
                       std::string_view name = "fp4_to_fp8") {
  // contract
  detail::check_fp4(w);
  expects_equal(code.extent(0), w.rows, "fp4_to_fp8: rows of codes");
  expects_equal(code.extent(1), w.cols, "fp4_to_fp8: columns of codes");
  expects_equal(scale.extent(0), (w.rows + fp8_tile - 1) / fp8_tile, "fp4_to_fp8: rows of scales");
  expects_equal(scale.extent(1), (w.cols + fp8_tile - 1) / fp8_tile, "fp4_to_fp8: columns of scales");

  for (index_t a = 0; a < scale.extent(0); ++a)
    for (index_t b = 0; b < scale.extent(1); ++b) {
      const std::optional<fp4_spread> s = spread_of_tile(w, a, b);
      if (s && s->ratio() > static_cast<int>(limit)) {
        const auto place = [](int e, index_t o, index_t i) {
          return "2^" + std::to_string(e) + " at row " + std::to_string(o) + ", column " + std::to_string(i);
        };
        throw unsupported(
            std::string(name) + ": FP8 tile (" + std::to_string(a) + ", " + std::to_string(b) +
            "): its FP4 scales go from " + place(s->smallest, s->smallest_row, s->smallest_col) + " to " +
            place(s->largest, s->largest_row, s->largest_col) + ": a ratio of 2^" +
            std::to_string(s->ratio()) + ", at most 2^" + std::to_string(static_cast<int>(limit)) +
            (limit == cast_limit::exact ? " is lossless"
                                        : " is what the released kernels take (lossless: 2^14)"));
      }
      // Below the smallest e8m0 the scale stays there, and the codes are smaller by as much: still exact.
      const int e = s ? std::max(s->largest - fp8_head_room, -e8m0_bias) : 0;
      scale(a, b) = e8m0::from_bits(static_cast<unsigned>(e + e8m0_bias));
      for (index_t o = a * fp8_tile; o < std::min((a + 1) * fp8_tile, w.rows); ++o)
        for (index_t i = b * fp8_tile; i < std::min((b + 1) * fp8_tile, w.cols); ++i) {
          const e2m1 from = e2m1::from_bits(detail::fp4_code(w, o, i));
          const double v =
              from.decode() == 0 ? from.decode() : w.at(o, i);  // a zero under any scale, NaN too
          code(o, i) = e4m3::encode(v * power_of_two(-e));
        }
    }
}

}  // namespace dsv4
