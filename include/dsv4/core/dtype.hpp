// SPDX-License-Identifier: MIT
#pragma once
/// Storage types of tensors in files and in events.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>

#include "view.hpp"

namespace dsv4 {

/// Storage types: all that the safetensors format names.  f4_e2m1 is two codes per byte along the row, low nibble =
/// even column.  The numbers are part of the hashes in saved states: new types go to the end.
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
  boolean,
  // Known so that files can hold them; only the unsigned integers are ever read.
  u64,
  u32,
  u16,
  c64,
  f8_e5m2,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  f6_e2m3,
  f6_e3m2
};

/// Bits of one element.
constexpr index_t bits_of(dtype t) {
  switch (t) {
    case dtype::f64:
    case dtype::c64:
    case dtype::u64:
    case dtype::i64: return 64;
    case dtype::f32:
    case dtype::u32:
    case dtype::i32: return 32;
    case dtype::f16:
    case dtype::bf16:
    case dtype::u16:
    case dtype::i16: return 16;
    case dtype::f6_e2m3:
    case dtype::f6_e3m2: return 6;
    case dtype::f4_e2m1: return 4;
    default: return 8;
  }
}

/// The name safetensors gives the type (published checkpoints store F4 as I8, two codes per byte).
constexpr std::string_view name_of(dtype t) {
  switch (t) {
    case dtype::f64: return "F64";
    case dtype::f32: return "F32";
    case dtype::f16: return "F16";
    case dtype::bf16: return "BF16";
    case dtype::f8_e4m3: return "F8_E4M3";
    case dtype::f8_e8m0: return "F8_E8M0";
    case dtype::f4_e2m1: return "F4";
    case dtype::i64: return "I64";
    case dtype::i32: return "I32";
    case dtype::i16: return "I16";
    case dtype::i8: return "I8";
    case dtype::u8: return "U8";
    case dtype::boolean: return "BOOL";
    case dtype::u64: return "U64";
    case dtype::u32: return "U32";
    case dtype::u16: return "U16";
    case dtype::c64: return "C64";
    case dtype::f8_e5m2: return "F8_E5M2";
    case dtype::f8_e4m3fnuz: return "F8_E4M3FNUZ";
    case dtype::f8_e5m2fnuz: return "F8_E5M2FNUZ";
    case dtype::f6_e2m3: return "F6_E2M3";
    case dtype::f6_e3m2: return "F6_E3M2";
  }
  return "?";
}

constexpr bool is_integer(dtype t) {
  switch (t) {
    case dtype::i64:
    case dtype::i32:
    case dtype::i16:
    case dtype::i8:
    case dtype::u64:
    case dtype::u32:
    case dtype::u16:
    case dtype::u8: return true;
    default: return false;
  }
}

/// Element i of integers in any width, which need not be aligned; U64 beyond I64 comes out as -1, which is no index.
/// @pre is_integer(type)
DSV4_HOST_DEVICE inline std::int64_t integer_at(dtype type, const std::byte* data, index_t i) {
  constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const auto at = [&]<class T>(T v) {
    std::memcpy(&v, data + i * static_cast<index_t>(sizeof v), sizeof v);
    return v;
  };
  switch (type) {
    case dtype::i64: return at(std::int64_t{});
    case dtype::i32: return at(std::int32_t{});
    case dtype::i16: return at(std::int16_t{});
    case dtype::i8: return at(std::int8_t{});
    case dtype::u64: {
      const std::uint64_t v = at(std::uint64_t{});
      return v > largest ? -1 : static_cast<std::int64_t>(v);
    }
    case dtype::u32: return at(std::uint32_t{});
    case dtype::u16: return at(std::uint16_t{});
    default: return at(std::uint8_t{});
  }
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
