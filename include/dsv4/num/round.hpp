// SPDX-License-Identifier: MIT
#pragma once
/// The one rounding of a narrow store, fast and branch-free where it is hot.
/// @paper{DSV4, section 2.3.4}
/// axes     none
/// oracle   minifloat::encode (tested for equality on every bf16 and its neighbourhood)
/// deviates none
#include <cstdint>
#include <type_traits>

#include "minifloat.hpp"

namespace dsv4 {

/// bf16 of a float: round to nearest, ties to even.
DSV4_HOST_DEVICE constexpr bf16 round_bf16(float x) {
  const auto u = bits_as<std::uint32_t>(x);
  if (x != x) return {static_cast<std::uint16_t>((u >> 16) | 0x40)};  // keep it a NaN
  return {static_cast<std::uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16)};
}

/// bf16 of a double in one step.  Narrowing to float is made harmless by rounding to odd: a float has
/// 16 more mantissa bits than bf16, so a sticky last bit is all that the second rounding needs.
DSV4_HOST_DEVICE constexpr bf16 round_bf16(double x) {
  const auto u = bits_as<std::uint64_t>(x);
  const float near = static_cast<float>(x);  // nearest; infinity beyond the range
  const double back = near;
  // Step `near` toward zero where it overshot, then set the last bit unless it was exact.
  auto f = bits_as<std::uint32_t>(near);
  const auto b = bits_as<std::uint64_t>(back);
  const bool exact = b == u || x != x;
  const bool over = (b & binary64::magnitude_mask) > (u & binary64::magnitude_mask);
  f -= static_cast<std::uint32_t>(!exact && over);
  f |= static_cast<std::uint32_t>(!exact);
  return round_bf16(bits_as<float>(f));
}

DSV4_HOST_DEVICE constexpr float to_float(bf16 x) { return bits_as<float>(std::uint32_t{x.bits} << 16); }
DSV4_HOST_DEVICE constexpr double to_double(bf16 x) { return to_float(x); }
DSV4_HOST_DEVICE constexpr double to_double(float x) { return x; }
DSV4_HOST_DEVICE constexpr double to_double(double x) { return x; }

/// A stored value as a wide number of type W (float or double); exact.
template <class W, class A>
DSV4_HOST_DEVICE constexpr W widen(A x) {
  if constexpr (std::is_same_v<A, bf16>)
    return static_cast<W>(to_float(x));
  else
    return static_cast<W>(x);
}

/// A wide number stored as A: bf16 with one rounding, or a conversion between float types.
template <class A, class W>
DSV4_HOST_DEVICE constexpr A store(W x) {
  static_assert(std::is_floating_point_v<W>);
  if constexpr (std::is_same_v<A, bf16>)
    return round_bf16(x);
  else
    return static_cast<A>(x);
}

/// x as it is after a store as A, still wide.
template <class A, class W>
DSV4_HOST_DEVICE constexpr W rounded(W x) {
  return widen<W>(store<A>(x));
}

}  // namespace dsv4
