// SPDX-License-Identifier: MIT
#pragma once
/// Storage types of tensors in files and in events.
#include <cstdint>
#include <string_view>

#include "view.hpp"

namespace dsv4 {

/// Storage types.  f4_e2m1 is two codes per byte along the row, low nibble = even column.
enum class dtype : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e8m0,
  f4_e2m1,
  i64,
  i32,
  i16,
  i8,
  u8,
  boolean
};

/// Bits of one element.
constexpr index_t bits_of(dtype t) {
  switch (t) {
    case dtype::f64:
    case dtype::i64: return 64;
    case dtype::f32:
    case dtype::i32: return 32;
    case dtype::f16:
    case dtype::bf16:
    case dtype::i16: return 16;
    case dtype::f4_e2m1: return 4;
    default: return 8;
  }
}

/// The name safetensors gives the type (F4 is stored as I8 pairs in published checkpoints).
constexpr std::string_view name_of(dtype t) {
  switch (t) {
    case dtype::f64: return "F64";
    case dtype::f32: return "F32";
    case dtype::f16: return "F16";
    case dtype::bf16: return "BF16";
    case dtype::f8_e4m3: return "F8_E4M3";
    case dtype::f8_e8m0: return "F8_E8M0";
    case dtype::f4_e2m1: return "F4_E2M1";
    case dtype::i64: return "I64";
    case dtype::i32: return "I32";
    case dtype::i16: return "I16";
    case dtype::i8: return "I8";
    case dtype::u8: return "U8";
    case dtype::boolean: return "BOOL";
  }
  return "?";
}

/// The storage type of a C++ type; bf16 joins in num/block_scaled.hpp.
template <class T>
inline constexpr dtype dtype_of = T::no_storage_type;
template <>
inline constexpr dtype dtype_of<float> = dtype::f32;
template <>
inline constexpr dtype dtype_of<double> = dtype::f64;
template <>
inline constexpr dtype dtype_of<std::int32_t> = dtype::i32;

}  // namespace dsv4
