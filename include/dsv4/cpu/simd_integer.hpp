// SPDX-License-Identifier: MIT
#pragma once
/// Integer vectors of 256 bits for exact products of FP4 weights: the second half of cpu/simd.hpp.
/// axes     none
/// oracle   the portable branch of this header, bit for bit
///
///   i8x32   32 bytes      i16x16  16 sums of two products      i32x8  8 sums of eight
#include "simd.hpp"

namespace dsv4::simd {

#if DSV4_SIMD_AVX2
struct i8x32 {
  __m256i v;
};
struct i16x16 {
  __m256i v;
};
struct i32x8 {
  __m256i v;
};
#else
struct i8x32 {
  alignas(32) std::int8_t v[32];
};
struct i16x16 {
  alignas(32) std::int16_t v[16];
};
struct i32x8 {
  alignas(32) std::int32_t v[8];
};
#endif

/// Weights of a pair of 32-blocks, doubled and biased: 2 e2m1 + 12, in 0..24.
inline constexpr int e2m1_bias = 12;  // check: 12 == 2 * 6
struct e2m1_pair {
  i8x32 even, odd;
};  // columns 0 2 4 …, 1 3 5 …

#if DSV4_SIMD_AVX2

inline i8x32 load_i8(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
inline i32x8 load_i32(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
inline void store_i8(void* p, i8x32 a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a.v); }
inline e2m1_pair e2m1_biased(const std::byte* p) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m256i raw = load_i8(p).v, nibble = _mm256_set1_epi8(15);
  return {{_mm256_shuffle_epi8(table, _mm256_and_si256(raw, nibble))},
          {_mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble))}};
}
/// Sums of neighbours: unsigned w times signed x.
inline i16x16 dot_pairs(i8x32 w, i8x32 x) { return {_mm256_maddubs_epi16(w.v, x.v)}; }
inline i16x16 add(i16x16 a, i16x16 b) { return {_mm256_add_epi16(a.v, b.v)}; }
/// c in every lane.
inline i16x16 set(std::int16_t c) { return {_mm256_set1_epi16(c)}; }
/// Sums of neighbours, each times its factor.
inline i32x8 widen_pairs(i16x16 a, i16x16 c) { return {_mm256_madd_epi16(a.v, c.v)}; }
/// Lane r: the sum of lanes 0..3 of the r-th, lane 4 + r: that of its lanes 4..7.
inline i32x8 sums_of_halves(i32x8 a, i32x8 b, i32x8 c, i32x8 d) {
  return {_mm256_hadd_epi32(_mm256_hadd_epi32(a.v, b.v), _mm256_hadd_epi32(c.v, d.v))};
}
inline i32x8 add(i32x8 a, i32x8 b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline i32x8 subtract(i32x8 a, i32x8 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
inline f32x8 to_float(i32x8 a) { return {_mm256_cvtepi32_ps(a.v)}; }
/// Lanes 0..3 and lanes 4..7 as doubles.
inline f64x4 low_double(i32x8 a) { return {_mm256_cvtepi32_pd(_mm256_castsi256_si128(a.v))}; }
inline f64x4 high_double(i32x8 a) { return {_mm256_cvtepi32_pd(_mm256_extracti128_si256(a.v, 1))}; }
/// out[4 i + r] = row[r][i] for 16 bytes of four rows.
inline void interleave(const std::byte* const* row, std::byte* out) {
  const auto load = [&](int r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row[r])); };
  const auto put = [&](int i, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(out) + i, v); };
  const __m128i a = _mm_unpacklo_epi8(load(0), load(1)), b = _mm_unpacklo_epi8(load(2), load(3));
  const __m128i c = _mm_unpackhi_epi8(load(0), load(1)), d = _mm_unpackhi_epi8(load(2), load(3));
  put(0, _mm_unpacklo_epi16(a, b));
  put(1, _mm_unpackhi_epi16(a, b));
  put(2, _mm_unpacklo_epi16(c, d));
  put(3, _mm_unpackhi_epi16(c, d));
}

#else

inline i8x32 load_i8(const void* p) { return detail::copy<i8x32>(p); }
inline i32x8 load_i32(const void* p) { return detail::copy<i32x8>(p); }
inline void store_i8(void* p, i8x32 a) { std::memcpy(p, a.v, sizeof a.v); }
inline e2m1_pair e2m1_biased(const std::byte* p) {
  constexpr std::int8_t table[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
  return {detail::make<i8x32>([&](int i) { return table[detail::read<std::uint8_t>(p, i) & 15]; }),
          detail::make<i8x32>([&](int i) { return table[detail::read<std::uint8_t>(p, i) >> 4]; })};
}
/// Sums of neighbours: unsigned w times signed x.
inline i16x16 dot_pairs(i8x32 w, i8x32 x) {
  return detail::make<i16x16>([&](int i) {
    return static_cast<std::int16_t>(w.v[2 * i] * x.v[2 * i] + w.v[2 * i + 1] * x.v[2 * i + 1]);
  });
}
inline i16x16 add(i16x16 a, i16x16 b) {
  return detail::make<i16x16>([&](int i) { return static_cast<std::int16_t>(a.v[i] + b.v[i]); });
}
/// c in every lane.
inline i16x16 set(std::int16_t c) {
  return detail::make<i16x16>([&](int) { return c; });
}
/// Sums of neighbours, each times its factor.
inline i32x8 widen_pairs(i16x16 a, i16x16 c) {
  return detail::make<i32x8>(
      [&](int i) { return a.v[2 * i] * c.v[2 * i] + a.v[2 * i + 1] * c.v[2 * i + 1]; });
}
/// Lane r: the sum of lanes 0..3 of the r-th, lane 4 + r: that of its lanes 4..7.
inline i32x8 sums_of_halves(i32x8 a, i32x8 b, i32x8 c, i32x8 d) {
  const i32x8* all[4] = {&a, &b, &c, &d};
  return detail::make<i32x8>([&](int i) {
    const auto& v = all[i % 4]->v;
    const int h = i / 4 * 4;
    return (v[h] + v[h + 1]) + (v[h + 2] + v[h + 3]);
  });
}
inline i32x8 add(i32x8 a, i32x8 b) {
  return detail::make<i32x8>([&](int i) { return a.v[i] + b.v[i]; });
}
inline i32x8 subtract(i32x8 a, i32x8 b) {
  return detail::make<i32x8>([&](int i) { return a.v[i] - b.v[i]; });
}
inline f32x8 to_float(i32x8 a) {
  return detail::make<f32x8>([&](int i) { return static_cast<float>(a.v[i]); });
}
/// Lanes 0..3 and lanes 4..7 as doubles.
inline f64x4 low_double(i32x8 a) {
  return detail::make<f64x4>([&](int i) { return a.v[i]; });
}
inline f64x4 high_double(i32x8 a) {
  return detail::make<f64x4>([&](int i) { return a.v[4 + i]; });
}
/// out[4 i + r] = row[r][i] for 16 bytes of four rows.
inline void interleave(const std::byte* const* row, std::byte* out) {
  for (int i = 0; i < 64; ++i) out[i] = row[i % 4][i / 4];
}

#endif

}  // namespace dsv4::simd
