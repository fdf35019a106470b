// SPDX-License-Identifier: MIT
#pragma once
/// zstd files as memory: tests and small checkpoints travel compressed.
/// The size a frame claims is a hint at most: memory grows with what really comes out, up to the
/// caller's limit, so that a few hostile bytes cannot ask for terabytes.
/// @throws format_error naming the file: truncated, corrupt, or larger than the limit
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "../core/tensor.hpp"
#include "atomic_file.hpp"
#include "mapped_file.hpp"

namespace dsv4::io {

/// Bytes on a cache-line boundary, with their owner.
struct owned_bytes {
  dsv4::detail::aligned_array<std::byte> memory;
  std::size_t size = 0;

  const std::byte* data() const { return memory.get(); }
};

/// What a .zst file holds may be at most this large unless the caller says otherwise.
inline constexpr std::size_t default_max_decompressed = std::size_t{1} << 30;

/// Decompress all frames of `file`, whose bytes are `compressed`; max_bytes below the size of the address space.
inline owned_bytes zstd_decompress(const std::filesystem::path& file, const std::byte* compressed,
                                   std::size_t size, std::size_t max_bytes = default_max_decompressed) {
  struct free_stream {
    void operator()(ZSTD_DStream* s) const { ZSTD_freeDStream(s); }
  };
  const std::unique_ptr<ZSTD_DStream, free_stream> stream(ZSTD_createDStream());
  if (!stream) throw std::bad_alloc();

  // Begin with what the frame claims, but with no more than 16 times what is there to decompress.
  constexpr std::size_t smallest = std::size_t{1} << 16, plausible_ratio = 16;
  const unsigned long long claimed =
      size ? ZSTD_getFrameContentSize(compressed, size) : ZSTD_CONTENTSIZE_ERROR;
  const bool known = claimed != ZSTD_CONTENTSIZE_UNKNOWN && claimed != ZSTD_CONTENTSIZE_ERROR;
  const auto too_large = [&] {
    fail_format(file, "holds more than the limit of " + std::to_string(max_bytes) + " bytes");
  };
  if (known && claimed > max_bytes) too_large();
  const std::size_t most = max_bytes + 1;  // one byte beyond the limit shows that it is exceeded
  std::size_t capacity = std::min(most, std::max(smallest, size * plausible_ratio));
  if (known) capacity = std::min<std::size_t>(capacity, usize(claimed) + 1);

  owned_bytes out{dsv4::detail::allocate<std::byte>(capacity), 0};
  ZSTD_inBuffer in{compressed, size, 0};
  std::size_t pending = 1;  // 0 exactly at the end of a frame
  while (size > 0) {
    // Double the memory when it is full.
    if (out.size == capacity) {
      const std::size_t larger = capacity > most / 2 ? most : 2 * capacity;
      auto grown = dsv4::detail::allocate<std::byte>(larger);
      std::memcpy(grown.get(), out.memory.get(), out.size);
      out.memory = std::move(grown);
      capacity = larger;
    }
    // Decompress into what is free; zstd itself stops a stream that makes no progress.
    ZSTD_outBuffer space{out.memory.get(), capacity, out.size};
    pending = ZSTD_decompressStream(stream.get(), &space, &in);
    if (ZSTD_isError(pending))
      fail_format(file, "corrupt zstd data near offset " + std::to_string(in.pos) + ": " +
                            ZSTD_getErrorName(pending));
    out.size = space.pos;
    if (out.size > max_bytes) too_large();
    // Done when all input is read and nothing waits inside the decoder for room.
    if (in.pos == in.size && (pending == 0 || out.size < capacity)) break;
  }
  if (pending != 0)
    fail_format(file, "truncated zstd data: it ends after " + std::to_string(size) + " bytes inside a frame");
  return out;
}

/// Decompress a file.
inline owned_bytes read_zstd(const std::filesystem::path& path,
                             std::size_t max_bytes = default_max_decompressed) {
  const mapped_file file(path);
  return zstd_decompress(path, file.data(), file.size(), max_bytes);
}

/// Compress `size` bytes into a file (tests, export).  @throws error it cannot be written
inline void write_zstd(const std::filesystem::path& path, const void* data, std::size_t size, int level = 3) {
  std::vector<char> out(ZSTD_compressBound(size));
  const std::size_t n = ZSTD_compress(out.data(), out.size(), data, size, level);
  if (ZSTD_isError(n))
    throw internal_error(path.string() + ": zstd cannot compress: " + ZSTD_getErrorName(n));
  write_whole(path, {out.data(), n});
}

}  // namespace dsv4::io
