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
                       const stack& in = alone);

  /// Expert ids of every token, each in [0, experts).
  expert_table ids(const std::string& name, index_t rows, index_t k, index_t experts);

  void check_finite(const stored_tensor& t) const;

 private:
  /// The tensor of that name, now used.  `wanted` describes it should it be missing.
  const stored_tensor& need(const std::string& name, const std::string& wanted);

  /// A matrix that is not as it should be may be one in the format of others.  @throws unsupported
  void refuse_foreign(const std::string& name) const;

  [[noreturn]] void fail(const stored_tensor& t, const std::string& what) const;
  static std::string found(const stored_tensor& t);

  static std::vector<index_t> stacked(index_t rows, index_t cols, const stack& in);

  /// The scale of a quantised matrix; the tile is the one whose grid has the scale's shape.
  void attach_scale(weight_matrix& w, const stored_tensor& t, const std::string& name, const stack& in);

  /// Some re-saved checkpoints carry a scale beside a matrix that is not quantised: it must say nothing.
  void check_scale_is_one(const stored_tensor& scale, const stored_tensor& of) const;

  /// The bytes themselves where the file aligns their elements, else an aligned copy.
  const std::byte* aligned(const std::byte* data, index_t bytes, dtype type);

  tensor_table& files_;
  realigned_matrices& copies_;
};

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "weight_reader_impl.hpp"
#endif
