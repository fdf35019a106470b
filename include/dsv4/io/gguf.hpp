// SPDX-License-Identifier: MIT
#pragma once
/// GGUF: named arrays and typed metadata in one file, as llama.cpp and its relatives read and write it.
///
///   "GGUF" | u32 version | u64 tensors | u64 entries | entries | tensor infos | padding | data
///   entry        string key, u32 type, value          string: u64 length, bytes; array: u32 type, u64 count, values
///   tensor info  string name, u32 axes, u64 size each (fastest first), u32 type, u64 offset from the data's start
///
/// All little-endian; the data and every tensor in it begin at multiples of `general.alignment` (32).
/// Everything is checked when the file is opened, so that a tensor that is handed out can be read.  Types of
/// blocks that this library does not know are listed (their bytes are not), so that a file is refused for what
/// is asked of it, never for what it holds besides.
/// gguf_deepseek4.hpp makes a checkpoint of it.
/// @throws format_error with the file, the tensor or key, expected and found
/// @throws unsupported  big-endian files, one part of several
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../core/dtype.hpp"
#include "mapped_file.hpp"
#include "message.hpp"

namespace dsv4::io {

/// ggml's numbers of the types that are read and written here.
enum class gguf_type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q8_0 = 8,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  bf16 = 30,
  mxfp4 = 39,
};

/// Values of a row are stored in blocks of so many values and bytes.
struct gguf_block {
  index_t values = 1, bytes = 0;
};
// A scale and 32 codes: F16 and bytes; E8M0 and half bytes.
inline constexpr gguf_block q8_0_block{32, 34};   // check: 34 == 2 + 32
inline constexpr gguf_block mxfp4_block{32, 17};  // check: 17 == 1 + 32 / 2
/// Nothing for a type that is not known.
std::optional<gguf_block> block_of(gguf_type type);
/// F32, Q8_0, …; "type 7" for one that is not known.
std::string name_of(gguf_type type);

/// The types of metadata values, by their numbers in the file.
enum class gguf_kind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, list, u64, i64, f64 };

/// A metadata value in the file: numbers as they lie there, texts behind their lengths.
struct gguf_value {
  gguf_kind kind = gguf_kind::u8;  ///< of the elements, for a list
  bool is_list = false;
  std::uint64_t count = 1;
  std::span<const std::byte> bytes;
};

struct gguf_tensor {
  std::string name;
  gguf_type type = gguf_type::f32;
  std::vector<index_t> shape;  ///< row-major: the slowest axis first, which is ggml's sizes reversed
  index_t elements = 0;
  const std::byte* data = nullptr;  ///< null where the type is not known
  std::size_t bytes = 0;
};

class gguf {
 public:
  static constexpr std::uint64_t default_alignment = 32;

  /// Opens and checks everything but the numbers.  What it hands out lives as long as it does.
  static gguf open(const std::filesystem::path& path);
  /// The same over bytes that the caller keeps; `name` is for messages.
  static gguf parse(const std::filesystem::path& name, std::span<const std::byte> bytes);

  const std::filesystem::path& path() const& { return path_; }
  const std::filesystem::path& path() && = delete;
  /// In the order of the file.
  const std::vector<gguf_tensor>& tensors() const& { return tensors_; }
  const std::vector<gguf_tensor>& tensors() && = delete;
  const std::map<std::string, gguf_value, std::less<>>& metadata() const& { return metadata_; }
  const std::map<std::string, gguf_value, std::less<>>& metadata() && = delete;

  /// Null where there is none.
  const gguf_tensor* find(std::string_view name) const&;
  const gguf_tensor* find(std::string_view name) && = delete;

  /// A metadata entry; nothing where there is none.  @throws format_error it is of another kind
  std::optional<std::int64_t> integer(std::string_view key) const;
  std::optional<double> real(std::string_view key) const;  ///< an integer or a float
  std::optional<std::string> text(std::string_view key) const;
  std::vector<double> reals(
      std::string_view key) const;  ///< a list, or one number; empty where there is none
  std::optional<std::span<const std::byte>> bytes(std::string_view key) const;  ///< a list of u8

 private:
  const gguf_value* value(std::string_view key) const;
  [[noreturn]] void refuse(std::string_view key, const std::string& expected) const;
  void read(std::span<const std::byte> file);

  std::filesystem::path path_;
  mapped_file map_;
  std::map<std::string, gguf_value, std::less<>> metadata_;
  std::vector<gguf_tensor> tensors_;
  std::map<std::string_view, std::size_t> by_name_;
};

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "gguf_impl.hpp"
#endif
