// SPDX-License-Identifier: MIT
#pragma once
/// Vectors of 256 bits and the few operations that the CPU kernels are written in.
/// axes     none
/// oracle   the portable branch of this header, bit for bit
///
/// The header that asks which instructions there are: AVX2 with FMA and F16C, or plain loops.
/// Both branches give the same bits, std::fma included.
///
///   f32x8   8 floats      f64x4  4 doubles      f64x8  8 doubles, even columns then odd columns
///   integers for exact FP4 products: cpu/simd_integer.hpp
///
/// A group of 8 columns is the unit of every kernel.  As floats it lies in column order; as doubles it
/// lies even columns first (0 2 4 6 | 1 3 5 7): two doubles come out of one 64-bit lane that way.
#include <cmath>
#include <cstring>
#include <type_traits>

#include "../num/round.hpp"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define DSV4_SIMD_AVX2 1
#include <immintrin.h>
#else
#define DSV4_SIMD_AVX2 0
#endif

/// Before a loop over registers with a constant count: unroll it, so that an array of vectors stays in them.
/// Without it g++ keeps such arrays on the stack; clang unrolls by itself.
#if defined(__GNUC__) && !defined(__clang__)
#define DSV4_UNROLL _Pragma("GCC unroll 16")
#else
#define DSV4_UNROLL
#endif

namespace dsv4::simd {

inline constexpr bool accelerated = DSV4_SIMD_AVX2;

#if DSV4_SIMD_AVX2

struct f32x8 {
  __m256 v;
};
struct f64x4 {
  __m256d v;
};

inline f32x8 set(float x) { return {_mm256_set1_ps(x)}; }
inline f64x4 set(double x) { return {_mm256_set1_pd(x)}; }
inline f32x8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline f64x4 load(const double* p) { return {_mm256_loadu_pd(p)}; }
inline void store(float* p, f32x8 a) { _mm256_storeu_ps(p, a.v); }
inline void store(double* p, f64x4 a) { _mm256_storeu_pd(p, a.v); }
inline f32x8 mul(f32x8 a, f32x8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline f64x4 mul(f64x4 a, f64x4 b) { return {_mm256_mul_pd(a.v, b.v)}; }
/// a * b + c with one rounding.
inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline f64x4 fma(f64x4 a, f64x4 b, f64x4 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
/// ((0+4) + (2+6)) + ((1+5) + (3+7))
inline float sum(f32x8 a) {
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
/// (0+2) + (1+3)
inline double sum(f64x4 a) {
  const __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}

#else

struct f32x8 {
  alignas(32) float v[8];
};
struct f64x4 {
  alignas(32) double v[4];
};

namespace detail {
/// A vector whose lane i is f(i).
template <class V, class F>
V make(F f) {
  V r;
  for (int i = 0; i < static_cast<int>(sizeof(r.v) / sizeof(r.v[0])); ++i) r.v[i] = f(i);
  return r;
}
template <class V>
V copy(const void* p) {
  V r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
}  // namespace detail

inline f32x8 set(float x) {
  return detail::make<f32x8>([&](int) { return x; });
}
inline f64x4 set(double x) {
  return detail::make<f64x4>([&](int) { return x; });
}
inline f32x8 load(const float* p) { return detail::copy<f32x8>(p); }
inline f64x4 load(const double* p) { return detail::copy<f64x4>(p); }
inline void store(float* p, f32x8 a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store(double* p, f64x4 a) { std::memcpy(p, a.v, sizeof a.v); }
inline f32x8 mul(f32x8 a, f32x8 b) {
  return detail::make<f32x8>([&](int i) { return a.v[i] * b.v[i]; });
}
inline f64x4 mul(f64x4 a, f64x4 b) {
  return detail::make<f64x4>([&](int i) { return a.v[i] * b.v[i]; });
}
/// a * b + c with one rounding.
inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) {
  return detail::make<f32x8>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline f64x4 fma(f64x4 a, f64x4 b, f64x4 c) {
  return detail::make<f64x4>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
/// ((0+4) + (2+6)) + ((1+5) + (3+7))
inline float sum(f32x8 a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
/// (0+2) + (1+3)
inline double sum(f64x4 a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }

#endif

// ---- groups of 8 columns ------------------------------------------------------------------------------------

struct f64x8 {
  f64x4 even, odd;
};

inline f64x8 mul(f64x8 a, f64x8 b) { return {mul(a.even, b.even), mul(a.odd, b.odd)}; }
inline f64x8 fma(f64x8 a, f64x8 b, f64x8 c) {
  return {fma(a.even, b.even, c.even), fma(a.odd, b.odd, c.odd)};
}
inline double sum(f64x8 a) { return sum(a.even) + sum(a.odd); }

/// One register of W, and 8 columns of W.
template <class W>
using vector = std::conditional_t<std::is_same_v<W, float>, f32x8, f64x4>;
template <class W>
using group = std::conditional_t<std::is_same_v<W, float>, f32x8, f64x8>;
template <class W>
inline constexpr int lanes = 32 / static_cast<int>(sizeof(W));  // check: 32 == 256 / 8
inline constexpr int group_size = 8;

template <class W>
group<W> set_group(W x) {
  if constexpr (std::is_same_v<W, float>)
    return set(x);
  else
    return {set(x), set(x)};
}
inline f32x8 load_group(const float* p) { return load(p); }
inline f64x8 load_group(const double* p) { return {load(p), load(p + 4)}; }
inline void store_group(float* p, f32x8 a) { store(p, a); }
inline void store_group(double* p, f64x8 a) {
  store(p, a.even);
  store(p + 4, a.odd);
}

// ---- stored formats to groups -------------------------------------------------------------------------------

/// codes<F>: 8 consecutive codes of format F as a group.
///   load<W>(p)   the values times unit<W>.  The unit is the power of two by which the cheapest decoding is off, so
///                the products are exact, and the caller multiplies it away once instead of per value
///   bytes        how many bytes 8 codes take
template <class F>
struct codes;

namespace detail {

#if DSV4_SIMD_AVX2

inline f64x8 widen(f32x8 a) {
  const __m256 s = _mm256_permutevar8x32_ps(a.v, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
  return {{_mm256_cvtps_pd(_mm256_castps256_ps128(s))}, {_mm256_cvtps_pd(_mm256_extractf128_ps(s, 1))}};
}
inline f32x8 bf16_values(const std::byte* p) {
  // Word i to the upper half of dword i: the low lane takes words 0..3, the high lane 4..7.
  const __m256i raw = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i at = _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7,  //
                                      -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
  return {_mm256_castsi256_ps(_mm256_shuffle_epi8(raw, at))};
}
inline f64x8 bf16_group(const std::byte* p) {
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i odd = _mm_and_si128(raw, _mm_set1_epi32(static_cast<int>(0xFFFF0000)));
  return {{_mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(raw, 16)))},
          {_mm256_cvtps_pd(_mm_castsi128_ps(odd))}};
}
inline f32x8 f16_values(const std::byte* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline f32x8 f64_values(const std::byte* p) {
  const double* d = reinterpret_cast<const double*>(p);
  return {_mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(d + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(d)))};
}
inline f64x8 f64_group(const std::byte* p) {
  const double* d = reinterpret_cast<const double*>(p);
  const __m256d a = _mm256_loadu_pd(d), b = _mm256_loadu_pd(d + 4);                  // 0 1 2 3, 4 5 6 7
  const __m256d low = _mm256_unpacklo_pd(a, b), high = _mm256_unpackhi_pd(a, b);     // 0 4 2 6, 1 5 3 7
  return {{_mm256_permute4x64_pd(low, 0xD8)}, {_mm256_permute4x64_pd(high, 0xD8)}};  // 0xD8: 0 2 1 3
}
/// Byte i on top of dword i.
inline __m256i bytes_on_top(const std::byte* p) {
  long long raw;
  std::memcpy(&raw, p, sizeof raw);
  const __m256i at = _mm256_setr_epi8(-1, -1, -1, 0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3,  //
                                      -1, -1, -1, 4, -1, -1, -1, 5, -1, -1, -1, 6, -1, -1, -1, 7);
  return _mm256_shuffle_epi8(_mm256_set1_epi64x(raw), at);
}
/// s eeee mmm to a float's s 0000eeee mmm0…: the value times 2^(7 - 127).
inline f32x8 e4m3_values(const std::byte* p) {
  const __m256i shifted = _mm256_srai_epi32(bytes_on_top(p), 4);
  return {_mm256_castsi256_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(static_cast<int>(0x87F00000))))};
}
/// The same in the upper dword of a double: the value times 2^(7 - 1023).
inline f64x8 e4m3_group(const std::byte* p) {
  const __m256i shifted = _mm256_srai_epi32(bytes_on_top(p), 7);
  const __m256i keep = _mm256_set1_epi64x(static_cast<long long>(0x80FE000000000000));
  return {{_mm256_castsi256_pd(_mm256_and_si256(_mm256_slli_epi64(shifted, 32), keep))},
          {_mm256_castsi256_pd(_mm256_and_si256(shifted, keep))}};
}
inline f32x8 e2m1_values(const std::byte* p) {
  int raw;
  std::memcpy(&raw, p, sizeof raw);
  const __m256i code =
      _mm256_srlv_epi32(_mm256_set1_epi32(raw), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
  const __m256 magnitude = _mm256_permutevar8x32_ps(_mm256_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6), code);
  const __m256i sign =
      _mm256_and_si256(_mm256_slli_epi32(code, 28), _mm256_set1_epi32(static_cast<int>(0x80000000)));
  return {_mm256_or_ps(magnitude, _mm256_castsi256_ps(sign))};
}

#else

inline f64x8 widen(f32x8 a) {
  return {make<f64x4>([&](int i) { return double(a.v[2 * i]); }),
          make<f64x4>([&](int i) { return double(a.v[2 * i + 1]); })};
}
template <class T>
T read(const std::byte* p, int i) {
  T v;
  std::memcpy(&v, p + i * static_cast<int>(sizeof(T)), sizeof v);
  return v;
}
inline f32x8 bf16_values(const std::byte* p) {
  return make<f32x8>([&](int i) { return to_float(read<bf16>(p, i)); });
}
inline f64x8 bf16_group(const std::byte* p) { return widen(bf16_values(p)); }
inline f32x8 f16_values(const std::byte* p) {
  return make<f32x8>([&](int i) { return static_cast<float>(read<f16>(p, i).decode()); });
}
inline f32x8 f64_values(const std::byte* p) {
  return make<f32x8>([&](int i) { return static_cast<float>(read<double>(p, i)); });
}
inline f64x8 f64_group(const std::byte* p) {
  return {make<f64x4>([&](int i) { return read<double>(p, 2 * i); }),
          make<f64x4>([&](int i) { return read<double>(p, 2 * i + 1); })};
}
inline f32x8 e4m3_values(const std::byte* p) {
  return make<f32x8>([&](int i) {
    const std::uint32_t b = read<std::uint8_t>(p, i);
    return std::bit_cast<float>((b & 0x80) << 24 | (b & 0x7F) << 20);
  });
}
inline f64x8 e4m3_group(const std::byte* p) {
  const auto value = [&](int i) {
    const std::uint64_t b = read<std::uint8_t>(p, i);
    return std::bit_cast<double>((b & 0x80) << 56 | (b & 0x7F) << 49);
  };
  return {make<f64x4>([&](int i) { return value(2 * i); }),
          make<f64x4>([&](int i) { return value(2 * i + 1); })};
}
inline f32x8 e2m1_values(const std::byte* p) {
  constexpr float magnitude[8] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
  return make<f32x8>([&](int i) {
    const unsigned code = read<std::uint8_t>(p, i / 2) >> (i % 2 * 4);
    return code & 8 ? -magnitude[code & 7] : magnitude[code & 7];
  });
}

#endif

/// A format whose values are read as floats first.
template <f32x8 (*Values)(const std::byte*), int Bits>
struct via_float {
  static constexpr int bytes = Bits;  // 8 codes of Bits bits
  template <class W>
  static constexpr double unit = 1;
  template <class W>
  static group<W> load(const std::byte* p) {
    if constexpr (std::is_same_v<W, float>)
      return Values(p);
    else
      return widen(Values(p));
  }
};
inline f32x8 f32_values(const std::byte* p) { return simd::load(reinterpret_cast<const float*>(p)); }

}  // namespace detail

template <>
struct codes<bf16> {
  static constexpr int bytes = 16;
  template <class W>
  static constexpr double unit = 1;
  template <class W>
  static group<W> load(const std::byte* p) {
    if constexpr (std::is_same_v<W, float>)
      return detail::bf16_values(p);
    else
      return detail::bf16_group(p);
  }
};
template <>
struct codes<f16> : detail::via_float<detail::f16_values, 16> {};
template <>
struct codes<float> : detail::via_float<detail::f32_values, 32> {};
template <>
struct codes<e2m1> : detail::via_float<detail::e2m1_values, 4> {};
template <>
struct codes<double> {
  static constexpr int bytes = 64;
  template <class W>
  static constexpr double unit = 1;
  template <class W>
  static group<W> load(const std::byte* p) {
    if constexpr (std::is_same_v<W, float>)
      return detail::f64_values(p);
    else
      return detail::f64_group(p);
  }
};
template <>
struct codes<e4m3> {
  static constexpr int bytes = 8;
  template <class W>
  static constexpr double unit =
      std::is_same_v<W, float> ? 0x1p-120 : 0x1p-1016;  // biases: 7 - 127, 7 - 1023
  template <class W>
  static group<W> load(const std::byte* p) {
    if constexpr (std::is_same_v<W, float>)
      return detail::e4m3_values(p);
    else
      return detail::e4m3_group(p);
  }
};

/// Hint: this line will be read soon (second-level cache).
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace dsv4::simd
