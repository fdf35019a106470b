// SPDX-License-Identifier: MIT
#pragma once
/// Writes safetensors files (the format: safetensors.hpp): names in alphabetical order, the header padded
/// with spaces so that the data begin at a multiple of 8.
/// @throws contract_violation a name twice, bytes that do not fit the shape
/// @throws error the file cannot be written
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../core/contract.hpp"
#include "atomic_file.hpp"
#include "safetensors.hpp"

namespace dsv4::io {

/// Collects tensors, then writes them under their names in alphabetical order.
class safetensors_writer {
 public:
  /// A tensor whose bytes stay the caller's until `write` has run.
  void add(std::string name, dtype type, std::vector<index_t> shape, const void* data);
  /// A tensor whose bytes move into the writer.
  void add(std::string name, dtype type, std::vector<index_t> shape, std::vector<std::byte> data);
  /// A tensor that `write` asks for piece by piece, so that it is never in memory: make(at, out) writes bytes
  /// [at, at + out.size()) into `out`.  Pieces are whole rows of the first axis.
  void add(std::string name, dtype type, std::vector<index_t> shape,
           std::function<void(index_t, std::span<std::byte>)> make);
  /// A view of float, double, bf16, int32 or int64, or of FP8 codes.
  template <class T, int R>
  void add(std::string name, view<T, R> v) {
    const auto n = v.extents();
    add(std::move(name), type_of<std::remove_const_t<T>>(), std::vector<index_t>(n.begin(), n.end()),
        static_cast<const void*>(v.data()));
  }
  std::map<std::string, std::string> metadata;

  /// Whole or not at all.  @throws error the file cannot be written (atomic_file.hpp)
  void write(const std::filesystem::path& path) const;
  /// The file's bytes in order, piece by piece: sink(data, bytes).
  void write_to(const std::function<void(const void*, std::size_t)>& sink) const;

 private:
  struct entry {
    dtype type;
    std::vector<index_t> shape;
    index_t bytes;
    const std::byte* data = nullptr;
    std::vector<std::byte> owned;
    std::function<void(index_t, std::span<std::byte>)> make;
  };

  static void write_pieces(const std::function<void(const void*, std::size_t)>& sink, const entry& e,
                           std::vector<std::byte>& piece);

  template <class T>
  static constexpr dtype type_of() {
    if constexpr (std::is_same_v<T, double>)
      return dtype::f64;
    else if constexpr (std::is_same_v<T, float>)
      return dtype::f32;
    else if constexpr (std::is_same_v<T, bf16>)
      return dtype::bf16;
    else if constexpr (std::is_same_v<T, f16>)
      return dtype::f16;
    else if constexpr (std::is_same_v<T, e4m3>)
      return dtype::f8_e4m3;
    else if constexpr (std::is_same_v<T, e8m0>)
      return dtype::f8_e8m0;
    else if constexpr (std::is_same_v<T, std::int64_t>)
      return dtype::i64;
    else if constexpr (std::is_same_v<T, std::int32_t>)
      return dtype::i32;
    else
      static_assert(sizeof(T) == 0, "safetensors_writer: no safetensors dtype for this element");
  }

  entry& put(std::string name, dtype type, std::vector<index_t> shape);

  /// Length and JSON, padded with spaces so that the data begin at a multiple of 8.
  std::string header() const;

  std::map<std::string, entry> entries_;
};

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "safetensors_writer_impl.hpp"
#endif
