// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of weight_reader.hpp.
#include <algorithm>
#include <array>
#include <cstring>
#include "quantisation.hpp"
#include "weight_reader.hpp"

namespace dsv4::io {

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
DSV4_INLINE index_t first_not_finite(const tensor_info& t) {
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

DSV4_INLINE weight_matrix weight_reader::matrix(const std::string& name, const std::string& scale_name,
                                                index_t rows, index_t cols, const stack& in) {
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

DSV4_INLINE expert_table weight_reader::ids(const std::string& name, index_t rows, index_t k,
                                            index_t experts) {
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

DSV4_INLINE void weight_reader::check_finite(const stored_tensor& t) const {
  const index_t at = detail::first_not_finite(*t.stored);
  if (at >= 0) fail(t, "element " + std::to_string(at) + " is NaN or infinite, expected finite numbers only");
}

DSV4_INLINE const stored_tensor& weight_reader::need(const std::string& name, const std::string& wanted) {
  const stored_tensor* t = files_.take(name);
  if (!t) {
    refuse_foreign(name);
    const bool one_file = files_.files().size() == 1;
    fail_format(one_file ? files_.files()[0].path() : files_.path(),
                "tensor " + in_quotes(name) + " is missing, expected " + wanted);
  }
  return *t;
}

DSV4_INLINE void weight_reader::refuse_foreign(const std::string& name) const {
  constexpr std::string_view weight = ".weight";
  if (!name.ends_with(weight)) return;
  const std::string stem = name.substr(0, name.size() - weight.size());
  if (const auto format = detail::foreign_format(files_, stem))
    fail_unsupported(files_.path(),
                     "tensor " + in_quotes(name) + " is stored as " + *format + detail::formats_read);
}

DSV4_INLINE void weight_reader::fail(const stored_tensor& t, const std::string& what) const {
  const bool renamed = t.name != t.stored->name;
  fail_format(files_.path_of(t), "tensor " + in_quotes(t.stored->name) +
                                     (renamed ? " (" + std::string(t.name) + ")" : "") + " at offset " +
                                     std::to_string(t.stored->offset) + ": " + what);
}

DSV4_INLINE std::string weight_reader::found(const stored_tensor& t) {
  return "found " + std::string(name_of(t.stored->type)) + " " + shape_text(t.stored->shape);
}

DSV4_INLINE std::vector<index_t> weight_reader::stacked(index_t rows, index_t cols, const stack& in) {
  return in.planes ? std::vector<index_t>{in.planes, in.parts * rows, cols}
                   : std::vector<index_t>{rows, cols};
}

DSV4_INLINE void weight_reader::attach_scale(weight_matrix& w, const stored_tensor& t,
                                             const std::string& name, const stack& in) {
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

DSV4_INLINE void weight_reader::check_scale_is_one(const stored_tensor& scale,
                                                   const stored_tensor& of) const {
  const tensor_info& s = *scale.stored;
  bool one = s.type == dtype::f32 || s.type == dtype::f8_e8m0;
  for (index_t i = 0; one && i < s.elements; ++i) {
    float x = 1;
    if (s.type == dtype::f32) std::memcpy(&x, s.data + 4 * i, 4);
    one = s.type == dtype::f32 ? x == 1 : s.data[i] == std::byte{127};
  }
  if (!one)
    fail(scale,
         found(scale) + ", expected no scale (or ones): " + in_quotes(of.stored->name) + " is not quantised");
}

DSV4_INLINE const std::byte* weight_reader::aligned(const std::byte* data, index_t bytes, dtype type) {
  if (reinterpret_cast<std::uintptr_t>(data) % usize(bits_of(type) / 8) == 0) return data;
  auto& copy = copies_.memory.emplace_back(dsv4::detail::allocate<std::byte>(usize(bytes)));
  std::memcpy(copy.get(), data, usize(bytes));
  copies_.bytes += usize(bytes);
  return copy.get();
}

}  // namespace dsv4::io
