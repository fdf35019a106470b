// SPDX-License-Identifier: MIT
#pragma once
/// safetensors: named arrays in one file.
///
///   u64 little-endian n | n bytes of JSON | data
///   {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
///
/// Offsets count from the first byte of the data; together they cover it without hole or overlap.
/// Everything is checked when the file is opened, so that a tensor that is handed out can be read.
/// A tensor need not START at a multiple of its element size (the format does not ask for it, and files
/// in alphabetical order break it); `tensor_info::aligned` tells, and alignment::required refuses it.
/// @throws format_error with the file, the tensor, what was expected and found, and the offset
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../num/block_scaled.hpp"
#include "mapped_file.hpp"
#include "message.hpp"
#include "zstd_stream.hpp"

namespace dsv4::io {

static_assert(std::endian::native == std::endian::little,
              "safetensors are read in place: little-endian machines only");

/// One array of a file; `data` lives as long as the file's reader.
struct tensor_info {
  std::string name;
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  index_t elements = 0;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::size_t offset = 0;  ///< from the start of the file

  bool aligned() const;
};

enum class alignment_rule { any, required };

struct safetensors_options {
  std::size_t max_decompressed = default_max_decompressed;  ///< of a .safetensors.zst
  alignment_rule alignment = alignment_rule::any;
};

/// All types of the format.  A file is refused for what is asked of it, never for what it holds besides; published FP4
/// is I8, two codes per byte, not F4.
inline constexpr dtype safetensors_types[] = {
    dtype::f64,     dtype::f32,     dtype::f16,         dtype::bf16,       dtype::f8_e4m3, dtype::f8_e5m2,
    dtype::f8_e8m0, dtype::i64,     dtype::i32,         dtype::i16,        dtype::i8,      dtype::u64,
    dtype::u32,     dtype::u16,     dtype::u8,          dtype::c64,        dtype::f4_e2m1, dtype::f6_e2m3,
    dtype::f6_e3m2, dtype::boolean, dtype::f8_e4m3fnuz, dtype::f8_e5m2fnuz};

std::optional<dtype> safetensors_type(std::string_view name);

namespace detail {

/// Product of a shape; nothing when a size is negative or the product (or its bits) overflows.
std::optional<index_t> checked_elements(const std::vector<index_t>& shape, dtype type);

struct header_entry;

}  // namespace detail

/// A safetensors file, mapped or (when its name ends in .zst) decompressed to memory.
class safetensors {
 public:
  /// Open and check the whole header; no tensor data is read.  @throws format_error
  static safetensors open(const std::filesystem::path& path, const safetensors_options& options = {});

  /// The same over bytes that the caller keeps; `name` is for messages.  @throws format_error
  static safetensors parse(const std::filesystem::path& name, std::span<const std::byte> bytes,
                           const safetensors_options& options = {});

  /// The same over bytes that it keeps itself.  @throws format_error
  static safetensors own(const std::filesystem::path& name, owned_bytes bytes);

  const std::filesystem::path& path() const& { return path_; }
  const std::filesystem::path& path() const&& = delete;
  /// All tensors, in alphabetical order.
  const std::vector<tensor_info>& tensors() const& { return tensors_; }
  const std::vector<tensor_info>& tensors() const&& = delete;
  const std::map<std::string, std::string>& metadata() const& { return metadata_; }
  const std::map<std::string, std::string>& metadata() const&& = delete;

  /// Null when there is none of that name.
  const tensor_info* find(std::string_view name) const&& = delete;
  const tensor_info* find(std::string_view name) const&;
  /// @throws format_error naming the file and the tensor
  const tensor_info& at(std::string_view name) const&& = delete;
  const tensor_info& at(std::string_view name) const&;

 private:
  static constexpr std::size_t max_header = 100'000'000;  // the limit of the format's own implementation

  void read(const std::byte* file, std::size_t size, const safetensors_options& options);

  /// One header entry as a tensor inside the file.
  tensor_info checked(detail::header_entry& e, const std::byte* file, std::size_t begin, std::size_t size,
                      const safetensors_options& options) const;

  /// The tensors, by offset, must cover the data exactly: no hole, no overlap, nothing behind.
  void check_coverage(std::size_t begin, std::size_t size) const;

  std::filesystem::path path_;
  mapped_file map_;
  owned_bytes memory_;
  std::vector<tensor_info> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "safetensors_impl.hpp"
#endif
