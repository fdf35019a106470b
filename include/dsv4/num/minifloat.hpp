// SPDX-License-Identifier: MIT
#pragma once
/// Narrow floating-point formats, all from one definition.
/// @paper{DSV4, section 5.2.1 (FP4), section 2.3.4 (FP8, BF16 caches)}
/// axes     none
/// oracle   OCP MX specification 1.0 tables; golden/official stores
/// deviates none
///
/// A format is `sign | exponent | mantissa` with a bias; decode is exact in double, encode rounds a
/// double to the nearest code in ONE step, ties to the even mantissa.  Going through float first would
/// round twice and lose bits of the goldens.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "../core/config_macros.hpp"

namespace dsv4 {

/// What the codes with the largest exponent mean.
enum class specials {
  ieee,      ///< infinity and NaN as in IEEE 754; too large a value becomes infinity
  nan_only,  ///< only the all-ones code is NaN, there is no infinity; too large a value saturates
  none,      ///< every code is a number; too large a value saturates
};

/// 2^e as a double, for exponents of normal doubles.
constexpr double power_of_two(int e) {
  constexpr int mantissa = 52, bias = 1023;  // IEEE 754 binary64
  return std::bit_cast<double>(static_cast<std::uint64_t>(e + bias) << mantissa);
}

/// ceil(log2(x)) for x > 0, read off the exponent: exact at powers of two, where a logarithm may not be.
inline int exponent_at_least(double x) {
  int e;
  const double m = std::frexp(x, &e);  // x = m * 2^e, 1/2 <= m < 1
  return m == 0.5 ? e - 1 : e;
}

/// A signed minifloat with subnormals.  E exponent bits, M mantissa bits.
template <int E, int M, specials S>
struct minifloat {
  static constexpr int exponent_bits = E, mantissa_bits = M;
  static constexpr int bias = (1 << (E - 1)) - 1;
  static constexpr int width = 1 + E + M;
  using storage = std::conditional_t<(width > 8), std::uint16_t, std::uint8_t>;

  /// Exponents of the smallest normal number and of the subnormal step.
  static constexpr int min_exponent = 1 - bias, step_exponent = min_exponent - M;
  static constexpr storage code_mask = static_cast<storage>((1u << width) - 1);
  static constexpr storage sign_bit = static_cast<storage>(1u << (width - 1));
  static constexpr storage magnitude_mask = static_cast<storage>(sign_bit - 1);
  static constexpr storage infinity_code = static_cast<storage>(((1u << E) - 1) << M);  // ieee only
  /// The largest finite magnitude code.
  static constexpr storage max_code = S == specials::ieee       ? storage(infinity_code - 1)
                                      : S == specials::nan_only ? storage(magnitude_mask - 1)
                                                                : magnitude_mask;
  static constexpr storage nan_code =
      S == specials::ieee ? storage(infinity_code | (1u << (M - 1))) : magnitude_mask;

  storage bits = 0;

  static constexpr minifloat from_bits(unsigned b) { return {static_cast<storage>(b & code_mask)}; }

  constexpr bool is_nan() const {
    const storage m = bits & magnitude_mask;
    if constexpr (S == specials::ieee) return m > infinity_code;
    if constexpr (S == specials::nan_only) return m == magnitude_mask;
    return false;
  }
  constexpr bool is_finite() const {
    if constexpr (S == specials::ieee) return (bits & magnitude_mask) < infinity_code;
    return !is_nan();
  }

  /// The exact value of the code.
  constexpr double decode() const {
    const int e = (bits >> M) & ((1 << E) - 1), m = bits & ((1 << M) - 1);
    const double sign = bits & sign_bit ? -1.0 : 1.0;
    if (is_nan()) return std::numeric_limits<double>::quiet_NaN();
    if (!is_finite()) return sign * std::numeric_limits<double>::infinity();
    // subnormal: m * step; normal: (2^M + m) * step * 2^(e-1)
    return sign *
           (e == 0 ? m * power_of_two(step_exponent) : ((1 << M) + m) * power_of_two(step_exponent + e - 1));
  }
  explicit operator double() const { return decode(); }
  explicit operator float() const { return static_cast<float>(decode()); }

  /// Nearest code, ties to even, one rounding.  NaN gives the NaN code (or, without one, +0).
  static minifloat encode(double x) {
    constexpr int double_mantissa = 52, double_bias = 1023;  // IEEE 754 binary64
    const auto u = std::bit_cast<std::uint64_t>(x);
    const auto sign = static_cast<storage>(u >> 63 ? sign_bit : 0);
    if (x != x) return {S == specials::none ? storage(0) : storage(sign | nan_code)};
    // Quantum of the result: 2^-M of the value's binade, at least the subnormal step.
    const int e = static_cast<int>((u >> double_mantissa) & 0x7FF) - double_bias;
    const int q = (e > min_exponent ? e : min_exponent) - M;
    // Magnitude in quanta, rounded to even by the hardware's own rounding to integer.
    const double a = std::fabs(x);
    const double largest = minifloat{max_code}.decode();
    if (a >= 2 * largest) return {storage(sign | (S == specials::ieee ? infinity_code : max_code))};
    const auto n = static_cast<std::int64_t>(std::nearbyint(std::ldexp(a, -q)));
    // n counts from the binade of q: below 2^M it is subnormal, 2^(M+1) carries into the exponent.
    const std::int64_t code = n + (static_cast<std::int64_t>(q - step_exponent) << M);
    if (code > max_code) return {storage(sign | (S == specials::ieee ? infinity_code : max_code))};
    return {storage(sign | code)};
  }

  friend constexpr bool operator==(minifloat, minifloat) = default;
};

/// bfloat16: activations and unquantised weights.
using bf16 = minifloat<8, 7, specials::ieee>;
/// IEEE half: some re-saved checkpoints.
using f16 = minifloat<5, 10, specials::ieee>;
/// FP8 weights and activations: largest 448, step 2^-9, 0x7F and 0xFF are NaN.
using e4m3 = minifloat<4, 3, specials::nan_only>;
/// FP4 weights, indexer keys and queries: 0 0.5 1 1.5 2 3 4 6 and their negatives.
using e2m1 = minifloat<2, 1, specials::none>;

/// Scales: an exponent alone.  Byte b is 2^(b - 127), 255 is NaN; there is no zero and no sign.
struct e8m0 {
  std::uint8_t bits = 127;
  static constexpr e8m0 from_bits(unsigned b) { return {static_cast<std::uint8_t>(b)}; }
  constexpr bool is_nan() const { return bits == 255; }
  constexpr double decode() const {
    return is_nan() ? std::numeric_limits<double>::quiet_NaN() : power_of_two(int(bits) - 127);
  }
  explicit operator double() const { return decode(); }
  explicit operator float() const { return static_cast<float>(decode()); }
  /// The smallest scale not below x (x > 0): an exponent rounds up so that nothing overflows.
  static e8m0 encode_up(double x) {
    const int up = exponent_at_least(x) + 127;
    return {static_cast<std::uint8_t>(up < 0 ? 0 : up > 254 ? 254 : up)};
  }
  friend constexpr bool operator==(e8m0, e8m0) = default;
};

static_assert(sizeof(bf16) == 2 && sizeof(e4m3) == 1 && sizeof(e8m0) == 1);
static_assert(std::is_trivially_copyable_v<bf16>);

}  // namespace dsv4
