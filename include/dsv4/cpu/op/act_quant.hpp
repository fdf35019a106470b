// SPDX-License-Identifier: MIT
#pragma once
/// Activation quantisation, a block at a time in vector registers; the bits of exec::ref in both modes.
/// @paper{DSV4, section 2.3.4 and 5.2.1}
/// axes     t token (or any row) · k channel
/// oracle   kernel::act_quant<exec::ref> and its two siblings
/// deviates none
///
/// bf16 and float blocks are quantised in float, exactly: the scale s is a power of two, so x / s is a
/// float (or so small that its code is 0), and rounding to M mantissa bits works on the bits:
///   |v| >= 2^min_exponent   round the float's mantissa to M bits, ties to even, by an integer add
///   below                   add 2^(23 + step_exponent): the float's last bit is then one step
/// A block with an infinity or a NaN takes the reference's path, and so do rows of doubles.
#include "../../op/act_quant.hpp"
#include "../parallel.hpp"

namespace dsv4 {

namespace cpu {

inline constexpr index_t values_per_task = 1 << 14;  // check: 16384 == 2**14
inline constexpr index_t longest_block = 128;

/// How a float is rounded to the format F.
template <class F>
struct rounding {
  static constexpr int drop = 23 - F::mantissa_bits;  // mantissa bits of a float that F does not have
  static constexpr float normal = std::bit_cast<float>(std::uint32_t(F::min_exponent + 127) << 23);
  static constexpr float magic = std::bit_cast<float>(std::uint32_t(23 + F::step_exponent + 127) << 23);
  static constexpr std::uint32_t rebias = std::uint32_t(127 - F::bias) << F::mantissa_bits;

  /// Magnitude code of v >= 0, v at most the largest value of F.
  static std::uint32_t code(float v) {
    const auto u = std::bit_cast<std::uint32_t>(v);
    const std::uint32_t rounded = u + ((1u << (drop - 1)) - 1) + ((u >> drop) & 1);
    const std::uint32_t small = std::bit_cast<std::uint32_t>(v + magic) - std::bit_cast<std::uint32_t>(magic);
    return v < normal ? small : (rounded >> drop) - rebias;
  }
  /// The value of that code.
  static float value(float v) {
    const auto u = std::bit_cast<std::uint32_t>(v);
    const std::uint32_t rounded = (u + ((1u << (drop - 1)) - 1) + ((u >> drop) & 1)) & ~((1u << drop) - 1);
    return v < normal ? (v + magic) - magic : std::bit_cast<float>(rounded);
  }
};

/// A block of at most 128 values as floats, and whether they are all finite.
struct float_block {
  alignas(32) float v[longest_block];
  float amax;
  bool finite;

  template <class A>
  float_block(const A* x, index_t n) {
    for (index_t i = 0; i < n; ++i) v[i] = widen<float>(x[i]);
    std::uint32_t largest = 0;  // as bits: those of magnitudes are ordered as the magnitudes are
    for (index_t i = 0; i < n; ++i)
      largest = std::max(largest, std::bit_cast<std::uint32_t>(v[i]) & 0x7FFFFFFF);
    finite = largest < 0x7F800000;
    amax = std::bit_cast<float>(largest);
  }
};

inline constexpr std::uint32_t float_sign = 0x80000000;  // check: 2147483648 == 2**31

/// Codes of one block, and its scale.
template <class A>
void quantise_block(const A* x, index_t n, e4m3* code, float& scale) {
  if constexpr (!std::is_same_v<A, double>) {
    const float_block b(x, n);
    if (b.finite) {
      scale = static_cast<float>(power_of_two_at_least(std::max<double>(b.amax, fp8_amax_floor) / e4m3_max));
      const float inverse = 1 / scale;
      for (index_t i = 0; i < n; ++i) {
        const std::uint32_t sign = std::bit_cast<std::uint32_t>(b.v[i]) & float_sign;
        code[i].bits =
            static_cast<std::uint8_t>(sign >> 24 | rounding<e4m3>::code(std::fabs(b.v[i]) * inverse));
      }
      return;
    }
  }
  const double s = block_scale(x, n, e4m3_max, fp8_amax_floor);
  scale = static_cast<float>(s);
  for (index_t i = 0; i < n; ++i)
    code[i] = e4m3::encode(std::clamp(widen<double>(x[i]) / s, -e4m3_max, e4m3_max));
}

/// One block stored as F and read back.
template <class F, class A>
void simulate_block(A* x, index_t n, double largest, double floor) {
  if constexpr (!std::is_same_v<A, double>) {
    const float_block b(x, n);
    if (b.finite) {
      const auto scale = static_cast<float>(power_of_two_at_least(std::max<double>(b.amax, floor) / largest));
      const float inverse = 1 / scale;
      for (index_t i = 0; i < n; ++i) {
        const float magnitude = rounding<F>::value(std::fabs(b.v[i]) * inverse) * scale;
        x[i] = store<A>(std::copysign(magnitude, b.v[i]));
      }
      return;
    }
  }
  const double s = block_scale(x, n, largest, floor);
  for (index_t i = 0; i < n; ++i)
    x[i] = store<A>(F::encode(std::clamp(widen<double>(x[i]) / s, -largest, largest)).decode() * s);
}

/// f(row) for every row, in pieces of some thousand values.
template <class F>
void for_rows(index_t rows, index_t values_per_row, F f) {
  parallel_for(rows, std::max<index_t>(1, values_per_task / std::max<index_t>(values_per_row, 1)),
               [&](index_t begin, index_t end) {
                 for (index_t t = begin; t < end; ++t) f(t);
               });
}

}  // namespace cpu

namespace kernel {

template <accumulate M>
struct act_quant<exec::basic_cpu<M>> {
  template <class A>
  static void run(exec::basic_cpu<M>&, view<const A, 2> x, view<e4m3, 2> code, view<float, 2> scale) {
    const index_t k = x.extent(1);
    cpu::for_rows(x.extent(0), k, [&](index_t t) {
      for (index_t b = 0; b < scale.extent(1); ++b) {
        const index_t from = b * fp8_tile, n = std::min(fp8_tile, k - from);
        cpu::quantise_block(&x(t, from), n, &code(t, from), scale(t, b));
      }
    });
  }
};

template <accumulate M>
struct act_quant_in_place<exec::basic_cpu<M>> {
  template <class A>
  static void run(exec::basic_cpu<M>& e, view<A, 2> x, index_t channels, index_t block) {
    if (block > cpu::longest_block) return reference(e, x, channels, block);
    cpu::for_rows(x.extent(0), channels, [&](index_t t) {
      for (index_t from = 0; from < channels; from += block)
        cpu::simulate_block<e4m3>(&x(t, from), std::min(block, channels - from), e4m3_max, fp8_amax_floor);
    });
  }

 private:
  template <class A>
  static void reference(exec::basic_cpu<M>&, view<A, 2> x, index_t channels, index_t block) {
    exec::ref e;
    act_quant_in_place<exec::ref>::run(e, x, channels, block);
  }
};

template <accumulate M>
struct fp4_act_quant<exec::basic_cpu<M>> {
  template <class A>
  static void run(exec::basic_cpu<M>&, view<A, 2> x) {
    const index_t k = x.extent(1);
    cpu::for_rows(x.extent(0), k, [&](index_t t) {
      for (index_t from = 0; from < k; from += fp4_tile_cols)
        cpu::simulate_block<e2m1>(&x(t, from), std::min(fp4_tile_cols, k - from), e2m1_max, fp4_amax_floor);
    });
  }
};

}  // namespace kernel
}  // namespace dsv4
