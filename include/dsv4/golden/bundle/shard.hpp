// SPDX-License-Identifier: MIT
#pragma once
/// One opened file of a bundle.  A plain one is mapped; a compressed one is decompressed piece by piece to a
/// temporary file, and that is mapped.  Memory holds only the pages in use; `release` lets them go.
/// @throws missing_input, damaged, format_error, always naming the file of the bundle
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#include <cstdlib>
#include <memory>

#include "../../io/atomic_file.hpp"
#include "../../io/safetensors.hpp"
#include "manifest.hpp"

namespace dsv4::golden {

struct shard_options {
  std::size_t max_raw_bytes = std::size_t{1} << 36;  ///< of one file after decompression
  std::filesystem::path temporary;                   ///< for decompressed shards; empty: the system's
};

/// A link is refused: it could lead anywhere, and a bundle is complete by itself.  @throws format_error
void refuse_link(const std::filesystem::path& path);
/// Size of a file that the manifest names.  @throws missing_input, format_error
std::size_t size_of_file(const std::filesystem::path& path);

namespace detail {

/// A file that disappears with its owner, and when a signal ends the program (io/open_files.hpp).
class temporary_file {
 public:
  explicit temporary_file(const std::filesystem::path& dir);
  ~temporary_file();
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;
  const std::filesystem::path& path() const { return path_; }
  void write(const void* data, std::size_t bytes);
  void close();

 private:
  std::filesystem::path path_;
  io::open_files::entry* begun_ = nullptr;
  int fd_ = -1;
};

/// Decompress `from` into `to` in pieces; exactly `expected` bytes must come out.
void decompress_file(const std::filesystem::path& from, temporary_file& to, std::size_t expected);

}  // namespace detail

class shard {
 public:
  shard(const std::filesystem::path& dir, const file_info& info, const shard_options& options);

  const std::filesystem::path& path() const { return path_; }
  const io::safetensors& tensors() const { return file_; }

  /// These bytes are not needed now: their pages leave memory (and come back when touched).
  static void release(const std::byte* data, std::size_t bytes) { advise(data, bytes, MADV_DONTNEED); }
  /// These bytes will be needed soon: the system may begin to read them.
  static void prefetch(const std::byte* data, std::size_t bytes) { advise(data, bytes, MADV_WILLNEED); }

 private:
  static void advise(const std::byte* data, std::size_t bytes, int what);

  std::filesystem::path path_;
  io::safetensors file_;
};

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "shard_impl.hpp"
#endif
