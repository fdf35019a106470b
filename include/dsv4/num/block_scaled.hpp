// SPDX-License-Identifier: MIT
#pragma once
/// Tensors as a checkpoint stores them: a type, the bytes, and for FP8/FP4 one scale per tile.
/// @paper{DSV4, section 5.2.1}
/// axes     o output row · i input column · k = i, the contracted axis of a product
/// oracle   golden/checkpoint_layout; official weight conversion
/// deviates any dtype is accepted in any place (docs/deviations.md, "dtypes")
///
/// Tiles: FP8 weights 128 x 128, FP4 weights 1 x 32, activations 1 x 128 (products) and 1 x 64 (KV).
/// value[o, i] = code[o, i] * scale[o / tile_rows, i / tile_cols]; the last tile may be partial.
#include <cstddef>
#include <cstring>
#include <string>

#include "../core/dtype.hpp"
#include "../core/error.hpp"
#include "../core/view.hpp"
#include "round.hpp"

namespace dsv4 {

inline constexpr index_t fp8_tile = 128;       // FP8 weights: 128 x 128, activations 1 x 128
inline constexpr index_t fp4_tile_cols = 32;   // FP4 weights: 1 x 32
inline constexpr index_t kv_quant_block = 64;  // KV cache: 1 x 64 of the channels without position

template <>
inline constexpr dtype dtype_of<bf16> = dtype::bf16;

/// A weight matrix in its stored form; a view of somebody's memory (a mapped file, a device's copy of it).
template <class Mem>
struct basic_weight_matrix {
  dtype type = dtype::f32;
  const std::byte* data = nullptr;
  index_t rows = 0, cols = 0;  // [o, i], logical (FP4: cols counts codes, not bytes)

  dtype scale_type = dtype::f8_e8m0;  // f8_e8m0 or f32
  const std::byte* scale = nullptr;   // [ceil(rows / tile_rows), ceil(cols / tile_cols)], or null
  index_t tile_rows = 1, tile_cols = 1;

  bool present() const { return data != nullptr; }
  bool quantised() const { return type == dtype::f8_e4m3 || type == dtype::f4_e2m1; }
  DSV4_HOST_DEVICE index_t scale_cols() const { return (cols + tile_cols - 1) / tile_cols; }
  DSV4_HOST_DEVICE index_t row_bytes() const { return cols * bits_of(type) / 8; }
  DSV4_HOST_DEVICE const std::byte* row(index_t o) const { return data + o * row_bytes(); }

  /// Scale of the tile that holds element (o, i); 1 without scales.
  DSV4_HOST_DEVICE double scale_at(index_t o, index_t i) const
    requires host_memory<Mem>
  {
    if (!scale) return 1;
    const index_t at = (o / tile_rows) * scale_cols() + i / tile_cols;
    if (scale_type == dtype::f8_e8m0) return e8m0::from_bits(std::to_integer<unsigned>(scale[at])).decode();
    float s;
    std::memcpy(&s, scale + at * 4, 4);
    return s;
  }

  /// code * scale, exact in double for every published format.
  DSV4_HOST_DEVICE double at(index_t o, index_t i) const
    requires host_memory<Mem>
  {
    const std::byte* r = row(o);
    switch (type) {
      case dtype::f32: {
        float v;
        std::memcpy(&v, r + 4 * i, 4);
        return v;
      }
      case dtype::bf16:
      case dtype::f16: {
        std::uint16_t v;
        std::memcpy(&v, r + 2 * i, 2);
        return type == dtype::bf16 ? to_double(dsv4::bf16{v}) : dsv4::f16{v}.decode();
      }
      case dtype::f8_e4m3: return e4m3::from_bits(std::to_integer<unsigned>(r[i])).decode() * scale_at(o, i);
      case dtype::f4_e2m1: {
        const unsigned pair = std::to_integer<unsigned>(r[i / 2]);
        return e2m1::from_bits(i % 2 ? pair >> 4 : pair & 15).decode() * scale_at(o, i);
      }
      default: DSV4_THROW(internal_error("weight_matrix: no arithmetic on " + std::string(name_of(type))));
    }
  }
};

using weight_matrix = basic_weight_matrix<mem::host>;

/// Activations quantised for a product: e4m3 codes and one power-of-two scale per row and 128 columns.
template <class Mem>
struct basic_quantised_activations {
  view<const e4m3, 2, Mem> code;    // [t, k]
  view<const float, 2, Mem> scale;  // [t, ceil(k / 128)]

  index_t rows() const { return code.extent(0); }
  index_t cols() const { return code.extent(1); }
  DSV4_HOST_DEVICE double at(index_t t, index_t k) const
    requires host_memory<Mem>
  {
    return code(t, k).decode() * double(scale(t, k / fp8_tile));
  }
};
using quantised_activations = basic_quantised_activations<mem::host>;

}  // namespace dsv4
