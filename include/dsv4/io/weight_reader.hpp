// SPDX-License-Identifier: MIT
#pragma once
/// One weight of a model from the table of stored tensors: matrices as views in whatever type they are
/// stored, small vectors as floats (exact for F32, BF16 and F16).
///
///   matrix   F32 | F16 | BF16 | F8_E4M3 + scale | I8 (two FP4 codes per byte) + scale
///   scale    F8_E8M0 | F32, one per tile; the tile, 128 x 128 or 1 x 32, follows from the two shapes
///   vector   F32 | BF16 | F16          expert ids   integers of any width
///
/// Any type in any place: FP4 or FP8 is decided by a tensor's type and shape, never by config.json.
/// @throws format_error with file, tensor, expected and found: missing, another shape or type, NaN or
///         infinity in a vector, an expert id out of range
/// @throws unsupported  a matrix in the format of others (quantisation.hpp)
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../model/weights.hpp"
#include "quantisation.hpp"
#include "tensor_table.hpp"

namespace dsv4::io {

/// Matrices whose elements a file does not align, copied so that they can be read as what they are.
struct realigned_matrices {
  std::vector<dsv4::detail::aligned_array<std::byte>> memory;
  std::size_t bytes = 0;
};

namespace detail {

/// First element for which bad(bits), or -1; whole blocks are tested without a branch.
template <class Bits, class Test>
index_t first_where(const std::byte* data, index_t n, Test bad) {
  constexpr index_t block = 4096;
  for (index_t b = 0; b < n; b += block) {
    const index_t end = std::min(n, b + block);
    unsigned any = 0;
    for (index_t i = b; i < end; ++i) {
      Bits v;
      std::memcpy(&v, data + i * static_cast<index_t>(sizeof(Bits)), sizeof(Bits));
      any |= static_cast<unsigned>(bad(v));
    }
    if (!any) continue;
    for (index_t i = b; i < end; ++i) {
      Bits v;
      std::memcpy(&v, data + i * static_cast<index_t>(sizeof(Bits)), sizeof(Bits));
      if (bad(v)) return i;
    }
  }
  return -1;
}

/// First NaN or infinity of a tensor, or -1.
inline index_t first_not_finite(const tensor_info& t) {
  switch (t.type) {
    case dtype::f32:
      return first_where<std::uint32_t>(t.data, t.elements,
                                        [](auto u) { return (u & 0x7F800000u) == 0x7F800000u; });
    case dtype::bf16:
      return first_where<std::uint16_t>(t.data, t.elements, [](auto u) { return (u & 0x7F80u) == 0x7F80u; });
    case dtype::f16:
      return first_where<std::uint16_t>(t.data, t.elements, [](auto u) { return (u & 0x7C00u) == 0x7C00u; });
    case dtype::f8_e4m3:
      return first_where<std::uint8_t>(t.data, t.elements, [](auto u) { return (u & 0x7Fu) == 0x7Fu; });
    case dtype::f8_e8m0:
      return first_where<std::uint8_t>(t.data, t.elements, [](auto u) { return u == 0xFFu; });
    default: return -1;  // integers, and FP4, whose every code is a number
  }
}

}  // namespace detail

class weight_reader {
 public:
  weight_reader(tensor_table& files, realigned_matrices& copies) : files_(files), copies_(copies) {}

  /// A small vector or table as floats; every element finite.
  template <int R>
  tensor<float, R> floats(const weight_info& i) {
    const std::string wanted = "F32, BF16 or F16 " + shape_text(i.shape);
    const stored_tensor& t = need(i.name, wanted);
    const tensor_info& s = *t.stored;
    const bool typed = s.type == dtype::f32 || s.type == dtype::bf16 || s.type == dtype::f16;
    if (!typed || s.shape != i.shape) fail(t, found(t) + ", expected " + wanted);
    check_finite(t);
    tensor<float, R> out;
    if constexpr (R == 1)
      out = tensor<float, 1>(i.shape[0]);
    else
      out = tensor<float, 2>(i.shape[0], i.shape[1]);
    for (index_t x = 0; x < s.elements; ++x) {
      if (s.type == dtype::f32) {
        std::memcpy(out.data() + x, s.data + 4 * x, 4);
      } else {
        std::uint16_t u;
        std::memcpy(&u, s.data + 2 * x, 2);
        out.data()[x] = static_cast<float>(s.type == dtype::bf16 ? bf16{u}.decode() : f16{u}.decode());
      }
    }
    return out;
  }

  /// Where in a stack of planes a matrix lies: rows [part, part + 1) * rows of plane `plane`.
  struct stack {
    index_t planes, plane, parts, part;
  };
  static constexpr stack alone{0, 0, 1, 0};  // planes 0: not stacked, two axes

  /// A matrix [rows, cols] with, where quantised, its scales.
  weight_matrix matrix(const std::string& name, const std::string& scale_name, index_t rows, index_t cols,
                       const stack& in = alone) {
    const std::string wanted = "F32, BF16, F16 or F8_E4M3 " + shape_text(stacked(rows, cols, in)) +
                               " or I8 (FP4) " + shape_text(stacked(rows, cols / 2, in));
    const stored_tensor& t = need(name, wanted);
    const tensor_info& s = *t.stored;
    weight_matrix w{.type = s.type, .rows = rows, .cols = cols};
    // Type and shape: I8 is two FP4 codes per byte.
    const bool fp4 = s.type == dtype::i8;
    if (fp4) w.type = dtype::f4_e2m1;
    const bool typed = fp4 || s.type == dtype::f32 || s.type == dtype::bf16 || s.type == dtype::f16 ||
                       s.type == dtype::f8_e4m3;
    if (!typed || (fp4 && cols % 2) || s.shape != stacked(rows, fp4 ? cols / 2 : cols, in))
      refuse_foreign(name), fail(t, found(t) + ", expected " + wanted);
    // Place in the file.
    const index_t first = (in.plane * in.parts + in.part) * rows;
    w.data = aligned(s.data + first * w.row_bytes(), rows * w.row_bytes(), s.type);
    attach_scale(w, t, scale_name, in);
    return w;
  }

  /// Expert ids of every token, each in [0, experts).
  expert_table ids(const std::string& name, index_t rows, index_t k, index_t experts) {
    const std::vector<index_t> shape{rows, k};
    const std::string wanted = "I64, I32 or other integers " + shape_text(shape);
    const stored_tensor& t = need(name, wanted);
    if (!is_integer(t.stored->type) || t.stored->shape != shape) fail(t, found(t) + ", expected " + wanted);
    const expert_table table{t.stored->type, t.stored->data, shape[0], shape[1]};
    for (index_t v = 0; v < table.rows; ++v)
      for (index_t j = 0; j < table.k; ++j)
        if (const index_t e = table.at(v, j); e < 0 || e >= experts)
          fail(t, "found expert " + std::to_string(e) + " for token " + std::to_string(v) +
                      ", expected 0 <= id < " + std::to_string(experts));
    return table;
  }

  void check_finite(const stored_tensor& t) const {
    const index_t at = detail::first_not_finite(*t.stored);
    if (at >= 0)
      fail(t, "element " + std::to_string(at) + " is NaN or infinite, expected finite numbers only");
  }

 private:
  /// The tensor of that name, now used.  `wanted` describes it should it be missing.
  const stored_tensor& need(const std::string& name, const std::string& wanted) {
    const stored_tensor* t = files_.take(name);
    if (!t) {
      refuse_foreign(name);
      const bool one_file = files_.files().size() == 1;
      fail_format(one_file ? files_.files()[0].path() : files_.path(),
                  "tensor " + in_quotes(name) + " is missing, expected " + wanted);
    }
    return *t;
  }

  /// A matrix that is not as it should be may be one in the format of others.  @throws unsupported
  void refuse_foreign(const std::string& name) const {
    constexpr std::string_view weight = ".weight";
    if (!name.ends_with(weight)) return;
    const std::string stem = name.substr(0, name.size() - weight.size());
    if (const auto format = detail::foreign_format(files_, stem))
      fail_unsupported(files_.path(),
                       "tensor " + in_quotes(name) + " is stored as " + *format + detail::formats_read);
  }

  [[noreturn]] void fail(const stored_tensor& t, const std::string& what) const {
    const bool renamed = t.name != t.stored->name;
    fail_format(files_.path_of(t), "tensor " + in_quotes(t.stored->name) +
                                       (renamed ? " (" + std::string(t.name) + ")" : "") + " at offset " +
                                       std::to_string(t.stored->offset) + ": " + what);
  }
  static std::string found(const stored_tensor& t) {
    return "found " + std::string(name_of(t.stored->type)) + " " + shape_text(t.stored->shape);
  }

  static std::vector<index_t> stacked(index_t rows, index_t cols, const stack& in) {
    return in.planes ? std::vector<index_t>{in.planes, in.parts * rows, cols}
                     : std::vector<index_t>{rows, cols};
  }

  /// The scale of a quantised matrix; the tile is the one whose grid has the scale's shape.
  void attach_scale(weight_matrix& w, const stored_tensor& t, const std::string& name, const stack& in) {
    const stored_tensor* scale = files_.take(name);
    if (!w.quantised()) {
      if (scale) check_scale_is_one(*scale, t);
      return;
    }
    constexpr std::array<index_t, 2> fp8{fp8_tile, fp8_tile}, fp4{1, fp4_tile_cols};
    const bool is_fp4 = w.type == dtype::f4_e2m1;
    const auto grid = [&](const std::array<index_t, 2>& tile) {
      return stacked((w.rows + tile[0] - 1) / tile[0], (w.cols + tile[1] - 1) / tile[1], in);
    };
    const std::string wanted = "F8_E8M0 or F32 " + shape_text(grid(is_fp4 ? fp4 : fp8)) + " or " +
                               shape_text(grid(is_fp4 ? fp8 : fp4));
    if (!scale) fail(t, found(t) + ", but its scale " + in_quotes(name) + " is missing, expected " + wanted);
    const tensor_info& s = *scale->stored;
    for (const auto& tile : is_fp4 ? std::array{fp4, fp8} : std::array{fp8, fp4}) {
      if ((s.type != dtype::f8_e8m0 && s.type != dtype::f32) || s.shape != grid(tile)) continue;
      w.scale_type = s.type;
      w.tile_rows = tile[0];
      w.tile_cols = tile[1];
      const index_t rows = (w.rows + tile[0] - 1) / tile[0], row_bytes = w.scale_cols() * bits_of(s.type) / 8;
      const index_t first = (in.plane * in.parts + in.part) * rows;
      w.scale = aligned(s.data + first * row_bytes, rows * row_bytes, s.type);
      return;
    }
    refuse_foreign(std::string(t.name));
    fail(*scale, found(*scale) + ", expected " + wanted);
  }

  /// Some re-saved checkpoints carry a scale beside a matrix that is not quantised: it must say nothing.
  void check_scale_is_one(const stored_tensor& scale, const stored_tensor& of) const {
    const tensor_info& s = *scale.stored;
    bool one = s.type == dtype::f32 || s.type == dtype::f8_e8m0;
    for (index_t i = 0; one && i < s.elements; ++i) {
      float x = 1;
      if (s.type == dtype::f32) std::memcpy(&x, s.data + 4 * i, 4);
      one = s.type == dtype::f32 ? x == 1 : s.data[i] == std::byte{127};
    }
    if (!one)
      fail(scale, found(scale) + ", expected no scale (or ones): " + in_quotes(of.stored->name) +
                      " is not quantised");
  }

  /// The bytes themselves where the file aligns their elements, else an aligned copy.
  const std::byte* aligned(const std::byte* data, index_t bytes, dtype type) {
    if (reinterpret_cast<std::uintptr_t>(data) % usize(bits_of(type) / 8) == 0) return data;
    auto& copy = copies_.memory.emplace_back(dsv4::detail::allocate<std::byte>(usize(bytes)));
    std::memcpy(copy.get(), data, usize(bytes));
    copies_.bytes += usize(bytes);
    return copy.get();
  }

  tensor_table& files_;
  realigned_matrices& copies_;
};

}  // namespace dsv4::io
