// SPDX-License-Identifier: MIT
#pragma once
/// Index scores in float that are the exact ones: when products of bf16 rows cannot round, and the steps after them.
/// @paper{DSV4, Eq. (16)}
/// axes     h indexer head · d channel (contracted) · s entry of a tile
/// oracle   kernel::index_scores<exec::ref>
/// deviates none
///
/// Rows of FP4 values are short numbers: one mantissa bit, and few powers of two between the largest and the smallest.  If
/// every |q_i| < 2^b g and every q_i is a multiple of g, and k likewise with b' and g', then all products and all their
/// partial sums are multiples of g g' below d 2^(b + b') g g'.  With d 2^(b + b') <= 2^24 each of them is a float, so a float
/// product has no rounding, whatever its order.  Rows that do not fulfil that are multiplied in double.
#include <algorithm>
#include <bit>
#include <cstdint>

#include "../../core/view.hpp"
#include "../../num/round.hpp"

namespace dsv4::cpu {

/// Every value of some rows is a multiple of 2^low and less than 2^high; of any one row, less than 2^bits of its multiples.
struct value_span {
  int bits = 0, low = 1 << 20, high = -(1 << 20);  // of rows of zeros

  value_span& operator|=(const value_span& o) {
    bits = std::max(bits, o.bits);
    low = std::min(low, o.low);
    high = std::max(high, o.high);
    return *this;
  }
};

inline constexpr int too_many_bits = 1 << 20;

/// Span of one row of n values; subnormals, infinities and NaNs get one that fits nowhere.
inline value_span span_of(const bf16* x, index_t n) {
  // Magnitudes are ordered as their bits are; one less turns a zero into the largest.
  std::uint16_t mantissas = 0, most = 0, least_less_one = 0xFFFF;
  for (index_t i = 0; i < n; ++i) {
    const auto magnitude = static_cast<std::uint16_t>(x[i].bits & 0x7FFF);
    const auto less_one = static_cast<std::uint16_t>(magnitude - 1);
    mantissas |= magnitude;
    most = magnitude > most ? magnitude : most;
    least_less_one = less_one < least_less_one ? less_one : least_less_one;
  }
  if (most == 0) return {};  // zeros
  const int largest = most >> 7, smallest = (least_less_one + 1) >> 7;
  if (smallest == 0 || largest == 255) return {too_many_bits, 0, 0};
  mantissas &= 0x7F;
  const int used = mantissas ? 7 - std::countr_zero(unsigned{mantissas}) : 0;  // mantissa bits
  return {largest + 1 - (smallest - used), smallest - used - 127, largest + 1 - 127};
}

/// Whether float holds the products q . k of d channels, and those of their stored values with the head's weights.
inline bool exact_in_float(const value_span& q, const value_span& k, const value_span& weights, index_t d) {
  constexpr int significand = 24, least = -149, most = 127;
  const int sum = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(d - 1)));  // d <= 2^sum
  return q.bits + k.bits + sum <= significand && weights.bits < too_many_bits && q.low + k.low >= least &&
         q.low + k.low + weights.low >= least && q.high + k.high + sum < most &&
         q.high + k.high + sum + 1 + weights.high < most;
}

/// A finite float as it is after a store as bf16.
inline float stored_as_bf16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>((u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000);
}

/// sum[s] += (relu(dot[s]) stored) * weight, stored, for exact dots of one head.
template <class W>
void add_head(const float* dot, float weight, index_t n, W* sum) {
  for (index_t s = 0; s < n; ++s)
    sum[s] += static_cast<W>(stored_as_bf16(stored_as_bf16(std::max(dot[s], 0.0f)) * weight));  // Eq. (16)
}

}  // namespace dsv4::cpu
