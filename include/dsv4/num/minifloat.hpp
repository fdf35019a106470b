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

/// The same bits as another type.  std::bit_cast is no function of a device; the builtin under it is.
template <class To, class From>
DSV4_HOST_DEVICE constexpr To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From) && std::is_trivially_copyable_v<From>);
  return __builtin_bit_cast(To, x);
}

/// The parts of a double, IEEE 754 binary64.
struct binary64 {
  static constexpr int mantissa_bits = 52, bias = 1023, min_exponent = -1022;
  static constexpr std::uint64_t mantissa_mask = (std::uint64_t{1} << mantissa_bits) - 1;
  static constexpr std::uint64_t magnitude_mask = ~std::uint64_t{0} >> 1;
};

/// 2^e as a double, for exponents of normal doubles.
DSV4_HOST_DEVICE constexpr double power_of_two(int e) {
  return bits_as<double>(static_cast<std::uint64_t>(e + binary64::bias) << binary64::mantissa_bits);
}

/// |x|.
DSV4_HOST_DEVICE constexpr double magnitude_of(double x) {
  return bits_as<double>(bits_as<std::uint64_t>(x) & binary64::magnitude_mask);
}

/// x >= 0 rounded to a whole number, ties to even, for x below 2^52: from there on doubles are whole numbers, so the
/// sum x + 2^52 is rounded to one, and the difference is exact.
DSV4_HOST_DEVICE constexpr double round_to_whole(double x) {
  constexpr double whole = power_of_two(binary64::mantissa_bits);
  return (x + whole) - whole;
}

/// ceil(log2(x)) for x > 0, read off the exponent: exact at powers of two, where a logarithm may not be.  0 for
/// infinity and NaN.
DSV4_HOST_DEVICE constexpr int exponent_at_least(double x) {
  // A subnormal double is lifted into the normal ones.
  constexpr int lift = 64, infinite = 2 * binary64::bias + 1;
  const bool small = x < power_of_two(binary64::min_exponent);
  const auto u = bits_as<std::uint64_t>(small ? x * power_of_two(lift) : x);
  const int field = static_cast<int>(u >> binary64::mantissa_bits);
  if (field >= infinite) return 0;
  const bool exact = (u & binary64::mantissa_mask) == 0;
  return field - binary64::bias - (small ? lift : 0) + (exact ? 0 : 1);
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

  DSV4_HOST_DEVICE static constexpr minifloat from_bits(unsigned b) {
    return {static_cast<storage>(b & code_mask)};
  }

  DSV4_HOST_DEVICE constexpr bool is_nan() const {
    const storage m = bits & magnitude_mask;
    if constexpr (S == specials::ieee) return m > infinity_code;
    if constexpr (S == specials::nan_only) return m == magnitude_mask;
    return false;
  }
  DSV4_HOST_DEVICE constexpr bool is_finite() const {
    if constexpr (S == specials::ieee) return (bits & magnitude_mask) < infinity_code;
    return !is_nan();
  }

  /// The exact value of the code.
  DSV4_HOST_DEVICE constexpr double decode() const {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN(),
                     infinity = std::numeric_limits<double>::infinity();
    const int e = (bits >> M) & ((1 << E) - 1), m = bits & ((1 << M) - 1);
    const double sign = bits & sign_bit ? -1.0 : 1.0;
    if (is_nan()) return nan;
    if (!is_finite()) return sign * infinity;
    // subnormal: m * step; normal: (2^M + m) * step * 2^(e-1)
    return sign *
           (e == 0 ? m * power_of_two(step_exponent) : ((1 << M) + m) * power_of_two(step_exponent + e - 1));
  }
  DSV4_HOST_DEVICE constexpr explicit operator double() const { return decode(); }
  DSV4_HOST_DEVICE constexpr explicit operator float() const { return static_cast<float>(decode()); }

  /// Nearest code, ties to even, one rounding.  NaN gives the NaN code (or, without one, +0).
  DSV4_HOST_DEVICE static constexpr minifloat encode(double x) {
    const auto u = bits_as<std::uint64_t>(x);
    const auto sign = static_cast<storage>(u >> 63 ? sign_bit : 0);
    if (x != x) return {S == specials::none ? storage(0) : storage(sign | nan_code)};
    // Quantum of the result: 2^-M of the value's binade, at least the subnormal step.
    const int e =
        static_cast<int>((u & binary64::magnitude_mask) >> binary64::mantissa_bits) - binary64::bias;
    const int q = (e > min_exponent ? e : min_exponent) - M;
    // Magnitude in quanta; the quotient is exact.
    const double a = magnitude_of(x);
    const double largest = minifloat{max_code}.decode();
    if (a >= 2 * largest) return {storage(sign | (S == specials::ieee ? infinity_code : max_code))};
    const auto n = static_cast<std::int64_t>(round_to_whole(a * power_of_two(-q)));
    // n counts from the binade of q: below 2^M it is subnormal, 2^(M+1) carries into the exponent.
    const std::int64_t code = n + (static_cast<std::int64_t>(q - step_exponent) << M);
    if (code > max_code) return {storage(sign | (S == specials::ieee ? infinity_code : max_code))};
    return {storage(sign | code)};
  }

  DSV4_HOST_DEVICE friend constexpr bool operator==(minifloat a, minifloat b) { return a.bits == b.bits; }
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
  DSV4_HOST_DEVICE static constexpr e8m0 from_bits(unsigned b) { return {static_cast<std::uint8_t>(b)}; }
  DSV4_HOST_DEVICE constexpr bool is_nan() const { return bits == 255; }
  DSV4_HOST_DEVICE constexpr double decode() const {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    return is_nan() ? nan : power_of_two(int(bits) - 127);
  }
  DSV4_HOST_DEVICE constexpr explicit operator double() const { return decode(); }
  DSV4_HOST_DEVICE constexpr explicit operator float() const { return static_cast<float>(decode()); }
  /// The smallest scale not below x (x > 0): an exponent rounds up so that nothing overflows.
  DSV4_HOST_DEVICE static constexpr e8m0 encode_up(double x) {
    const int up = exponent_at_least(x) + 127;
    return {static_cast<std::uint8_t>(up < 0 ? 0 : up > 254 ? 254 : up)};
  }
  DSV4_HOST_DEVICE friend constexpr bool operator==(e8m0 a, e8m0 b) { return a.bits == b.bits; }
};

static_assert(sizeof(bf16) == 2 && sizeof(e4m3) == 1 && sizeof(e8m0) == 1);
static_assert(std::is_trivially_copyable_v<bf16>);

}  // namespace dsv4
