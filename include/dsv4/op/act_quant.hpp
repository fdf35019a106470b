// SPDX-License-Identifier: MIT
#pragma once
/// Activation quantisation: e4m3 or e2m1 codes with one power-of-two scale per block of a row.
/// @paper{DSV4, section 2.3.4 and 5.2.1}
/// axes     t token (or any row) · k channel
/// oracle   kernel.py, act_quant and fp4_act_quant
/// deviates a last block may be partial (published sizes are multiples)
///
/// scale = 2^ceil(log2(amax / largest code)), formed on exponent bits, never with log2: a rounding of
/// the logarithm at a power of two would double or halve a whole block.
/// @post (1) |x / scale| <= largest code   (2) scale is a power of two   (3) a block of zeros has the
/// floor's scale, not 0 / 0
#include <algorithm>

#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../num/block_scaled.hpp"
#include "../num/formulas.hpp"

namespace dsv4 {

inline constexpr double e4m3_max = 448;             // check: 448 == (2 - 2**-2) * 2**8
inline constexpr double e2m1_max = 6;               // check: 6 == (2 - 2**-1) * 2**2
inline constexpr double fp8_amax_floor = 1e-4;      // of the released kernels; keeps 0 / 0 out
inline constexpr double fp4_amax_floor = 0x6p-126;  // check: 6 * 2**-126; the smallest normal scale, 2^-126

/// 2^ceil(log2(v)) for v > 0, exact.
DSV4_HOST_DEVICE constexpr double power_of_two_at_least(double v) {
  return power_of_two(exponent_at_least(v));
}

/// Scale of one block of `n` values: power_of_two_at_least(max(amax, floor) / largest).
template <class A>
DSV4_HOST_DEVICE constexpr double block_scale(const A* x, index_t n, double largest, double floor) {
  double amax = floor;
  for (index_t k = 0; k < n; ++k) amax = larger(amax, magnitude_of(widen<double>(x[k])));
  return power_of_two_at_least(amax / largest);
}

/// Nearest code of x / scale among those up to `largest`: what is beyond saturates.
template <class Code>
DSV4_HOST_DEVICE constexpr Code scaled_code(double x, double scale, double largest) {
  return Code::encode(clamped(x / scale, -largest, largest));
}

namespace kernel {
/// run(e, x [t, k], code [t, k], scale [t, ceil(k / 128)]): codes and scales, into a product.
template <execution E>
struct act_quant {
  static_assert(has_kernel<E>, "act_quant: no kernel for this executor");
};
/// run(e, x [t, k], channels, block): in place on the first `channels` of every row, e4m3 then back.
template <execution E>
struct act_quant_in_place {
  static_assert(has_kernel<E>, "act_quant_in_place: no kernel for this executor");
};
/// run(e, x [t, k]): in place over the whole row, e2m1 in blocks of 32, then back.
template <execution E>
struct fp4_act_quant {
  static_assert(has_kernel<E>, "fp4_act_quant: no kernel for this executor");
};

template <>
struct act_quant<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<const A, 2> x, view<e4m3, 2> code, view<float, 2> scale) {
    for (index_t t = 0; t < x.extent(0); ++t)
      for (index_t b = 0; b < scale.extent(1); ++b) {
        const index_t from = b * fp8_tile, to = std::min(from + fp8_tile, x.extent(1));
        // The block's largest magnitude decides its scale …
        const double s = block_scale(&x(t, from), to - from, e4m3_max, fp8_amax_floor);
        scale(t, b) = static_cast<float>(s);
        // … and every value its nearest code.
        for (index_t k = from; k < to; ++k)
          code(t, k) = scaled_code<e4m3>(widen<double>(x(t, k)), s, e4m3_max);
      }
  }
};

template <>
struct act_quant_in_place<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<A, 2> x, index_t channels, index_t block) {
    for (index_t t = 0; t < x.extent(0); ++t)
      for (index_t from = 0; from < channels; from += block) {
        const index_t to = std::min(from + block, channels);
        const double s = block_scale(&x(t, from), to - from, e4m3_max, fp8_amax_floor);
        for (index_t k = from; k < to; ++k) {
          const auto c = scaled_code<e4m3>(widen<double>(x(t, k)), s, e4m3_max);
          x(t, k) = store<A>(c.decode() * s);
        }
      }
  }
};

template <>
struct fp4_act_quant<exec::ref> {
  template <class A>
  static void run(exec::ref&, view<A, 2> x) {
    for (index_t t = 0; t < x.extent(0); ++t)
      for (index_t from = 0; from < x.extent(1); from += fp4_tile_cols) {
        const index_t to = std::min(from + fp4_tile_cols, x.extent(1));
        const double s = block_scale(&x(t, from), to - from, e2m1_max, fp4_amax_floor);
        for (index_t k = from; k < to; ++k) {
          const auto c = scaled_code<e2m1>(widen<double>(x(t, k)), s, e2m1_max);
          x(t, k) = store<A>(c.decode() * s);
        }
      }
  }
};
}  // namespace kernel

/// Codes and scales of x for a product with FP8 or FP4 weights.  @throws contract_violation on shapes.
template <execution E, class A>
void act_quant(E& e, view<A, 2, mem_of<E>> x /*[t,k]*/, view<e4m3, 2, mem_of<E>> code /*[t,k]*/,
               view<float, 2, mem_of<E>> scale /*[t,k/128]*/) {
  expects(x.extents() == code.extents(), "act_quant: x and code disagree");
  expects_equal(scale.extent(1), (x.extent(1) + fp8_tile - 1) / fp8_tile, "act_quant: scales per row");
  kernel::act_quant<E>::run(e, view<const A, 2, mem_of<E>>(x), code, scale);
}

/// Simulated FP8 storage of the first `channels` of each row, blocks of `block`.
template <execution E, class A>
void act_quant_in_place(E& e, view<A, 2, mem_of<E>> x /*[t,k]*/, index_t channels, index_t block) {
  expects(0 <= channels && channels <= x.extent(1), "act_quant_in_place: more channels than the row has");
  kernel::act_quant_in_place<E>::run(e, x, channels, block);
}

/// Simulated FP4 storage of each row, blocks of 32.
template <execution E, class A>
void fp4_act_quant(E& e, view<A, 2, mem_of<E>> x /*[t,k]*/) {
  kernel::fp4_act_quant<E>::run(e, x);
}

}  // namespace dsv4
