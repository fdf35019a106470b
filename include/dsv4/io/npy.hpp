// SPDX-License-Identifier: MIT
#pragma once
/// Arrays of numpy: .npy files, and .npz archives of them as numpy.savez writes them (a zip whose members
/// are stored).  Everything is mapped and checked when the file is opened; nothing is copied or allocated
/// by what a file says.
///
///   "\x93NUMPY" major minor | header length, u16 (version 1) or u32 (2, 3) | header | data
///   header: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
///
/// Read are <f2 <f4 <f8 <i2 <i4 <i8 |i1 <u2 <u4 <u8 |u1 |b1 <c8, and '<V2', which is how numpy writes
/// ml_dtypes.bfloat16.
/// Compressed members (numpy.savez_compressed), other types and big-endian arrays are `unsupported`.
/// @throws format_error with the file, the member, what was expected and found; unsupported
#include <array>
#include <optional>

#include "safetensors.hpp"

namespace dsv4::io {

/// One array; `data` lives as long as its file's reader and need not be aligned.
struct npy_array {
  std::string name;  ///< of the member without .npy; empty for a .npy file
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  bool fortran_order = false;  ///< the FIRST axis is contiguous
  index_t elements = 0;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
};

namespace detail {

/// Little-endian number at p.
template <class T>
T little(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// The Python literal of a .npy header: exactly the three keys, in any order.
class npy_header {
 public:
  npy_header(const std::filesystem::path& file, const std::string& who, std::string_view text)
      : file_(file), who_(who), left_(text) {}

  std::string descr;
  bool fortran_order = false;
  std::vector<index_t> shape;

  void read();

 private:
  [[noreturn]] void refuse(const std::string& found, const std::string& expected) const {
    fail_format(file_, who_ + "npy header: found " + found + ", expected " + expected);
  }
  std::string rest() const { return left_.empty() ? "the end" : in_quotes(left_.substr(0, 20)); }
  void skip();
  char peek();
  bool accept(char c);
  void expect(char c) {
    if (!accept(c)) refuse(rest(), std::string("'") + c + "'");
  }
  std::string quoted();
  bool truth();
  void sizes();

  const std::filesystem::path& file_;
  const std::string& who_;
  std::string_view left_;
};

std::optional<dtype> npy_type(std::string_view descr);

/// One .npy in memory; `who` names the member in messages ("member 'x': "), empty for a file.
npy_array parse_npy(const std::filesystem::path& file, const std::string& who, const std::byte* p,
                    std::size_t size);

/// CRC-32 of zip.
std::uint32_t crc32(const std::byte* p, std::size_t size);

/// The members of a zip, from its central directory; stored ones only.
class npz_directory {
 public:
  npz_directory(const std::filesystem::path& file, const std::byte* p, std::size_t size)
      : file_(file), p_(p), size_(size) {}

  std::vector<npy_array> read();

 private:
  struct bytes {
    const std::byte* p;
    std::size_t n;
  };

  /// The end record, which may be followed by a comment of up to 64 KiB.
  std::size_t find_end() const;

  npy_array member(const std::byte* e, std::string_view name, bytes extra) const;

  const std::filesystem::path& file_;
  const std::byte* p_;
  std::size_t size_;
};

}  // namespace detail

/// A .npy or .npz file.
class npy {
 public:
  /// @throws format_error, unsupported
  static npy open(const std::filesystem::path& path);
  /// The arrays of bytes that the caller keeps: one .npy, or the members of a zip; `name` is for messages.
  static std::vector<npy_array> parse(const std::filesystem::path& name, std::span<const std::byte> bytes,
                                      bool zip);
  const std::filesystem::path& path() const& { return map_.path(); }
  const std::filesystem::path& path() const&& = delete;
  const std::vector<npy_array>& arrays() const& { return arrays_; }
  const std::vector<npy_array>& arrays() const&& = delete;

 private:
  mapped_file map_;
  std::vector<npy_array> arrays_;
};

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "npy_impl.hpp"
#endif
