// SPDX-License-Identifier: MIT
#pragma once
/// zstd as a stream: bytes go in piece by piece, the frame comes out piece by piece, with its checksum.
/// The reading side is zstd_stream.hpp.
#include <zstd.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "../core/error.hpp"

namespace dsv4::io {

/// A receiver of bytes, called with one piece after the other.
using byte_sink = std::function<void(const void*, std::size_t)>;

class zstd_encoder {
 public:
  static constexpr int fast = 1;  ///< the level for values that hardly compress

  zstd_encoder(int level, byte_sink sink)
      : context_(ZSTD_createCCtx()), buffer_(ZSTD_CStreamOutSize()), sink_(std::move(sink)) {
    if (!context_) throw std::bad_alloc();
    ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, level);
    ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 1);
  }
  void write(const void* data, std::size_t bytes) { run(data, bytes, ZSTD_e_continue); }
  /// Once, at the end.
  void finish() { run(nullptr, 0, ZSTD_e_end); }

 private:
  struct free_context {
    void operator()(ZSTD_CCtx* c) const { ZSTD_freeCCtx(c); }
  };
  void run(const void* data, std::size_t bytes, ZSTD_EndDirective mode) {
    ZSTD_inBuffer in{data, bytes, 0};
    for (std::size_t left = 1; mode == ZSTD_e_end ? left > 0 : in.pos < in.size;) {
      ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
      left = ZSTD_compressStream2(context_.get(), &out, &in, mode);
      if (ZSTD_isError(left))
        throw internal_error(std::string("zstd cannot compress: ") + ZSTD_getErrorName(left));
      if (out.pos > 0) sink_(buffer_.data(), out.pos);
    }
  }

  std::unique_ptr<ZSTD_CCtx, free_context> context_;
  std::vector<char> buffer_;
  byte_sink sink_;
};

}  // namespace dsv4::io
