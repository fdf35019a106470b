// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of shard.hpp.
#include "../../core/config_macros.hpp"
#include "shard.hpp"

namespace dsv4::golden {

DSV4_INLINE void refuse_link(const std::filesystem::path& path) {
  std::error_code none;
  if (std::filesystem::is_symlink(path, none))
    throw format_error(path.string() +
                       ": is a symbolic link; the files of a bundle lie in it (copy it with cp -RL)");
}

DSV4_INLINE std::size_t size_of_file(const std::filesystem::path& path) {
  refuse_link(path);
  std::error_code fault;
  const auto size = std::filesystem::file_size(path, fault);
  if (fault) throw missing_input(path.string() + ": the manifest names this file, but it is not there");
  return size;
}

}  // namespace dsv4::golden

namespace dsv4::golden::detail {

DSV4_INLINE temporary_file::temporary_file(const std::filesystem::path& dir) {
  std::string name =
      ((dir.empty() ? std::filesystem::temp_directory_path() : dir) / "dsv4-shard-XXXXXX").string();
  fd_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd_ < 0)
    throw error(name + ": cannot be created (a compressed shard is decompressed there): " +
                io::detail::reason(errno));
  path_ = name;
  try {
    begun_ = io::open_files::add_begun(name);
  } catch (...) {
    ::close(fd_);
    ::unlink(path_.c_str());
    throw;
  }
}

DSV4_INLINE temporary_file::~temporary_file() {
  if (fd_ >= 0) ::close(fd_);
  ::unlink(path_.c_str());
  io::open_files::remove(begun_);
}

DSV4_INLINE void temporary_file::write(const void* data, std::size_t bytes) {
  if (const int code = io::detail::write_all(fd_, data, bytes))
    throw error(path_.string() + ": cannot be written (a compressed shard is decompressed there): " +
                io::detail::reason(code));
}

DSV4_INLINE void temporary_file::close() {
  if (::close(std::exchange(fd_, -1)) != 0)
    throw error(path_.string() + ": cannot be closed: " + io::detail::reason(errno));
}

DSV4_INLINE void decompress_file(const std::filesystem::path& from, temporary_file& to,
                                 std::size_t expected) {
  struct free_stream {
    void operator()(ZSTD_DStream* s) const { ZSTD_freeDStream(s); }
  };
  const std::unique_ptr<ZSTD_DStream, free_stream> stream(ZSTD_createDStream());
  if (!stream) throw std::bad_alloc();
  constexpr int largest_window = 27;  // 128 MiB: what `zstd --long` writes; more would break the memory bound
  ZSTD_DCtx_setParameter(stream.get(), ZSTD_d_windowLogMax, largest_window);
  std::ifstream file(from, std::ios::binary);
  std::vector<char> in(ZSTD_DStreamInSize()), out(ZSTD_DStreamOutSize());
  std::size_t produced = 0, pending = 1;
  while (file.read(in.data(), static_cast<std::streamsize>(in.size())) || file.gcount() > 0) {
    ZSTD_inBuffer piece{in.data(), usize(file.gcount()), 0};
    for (bool more = true; more;) {
      ZSTD_outBuffer space{out.data(), out.size(), 0};
      pending = ZSTD_decompressStream(stream.get(), &space, &piece);
      if (ZSTD_isError(pending))
        throw damaged(from.string() + ": corrupt zstd data after " + std::to_string(produced) +
                      " bytes: " + ZSTD_getErrorName(pending));
      produced += space.pos;
      if (produced > expected)
        throw damaged(from.string() + ": holds more than the " + std::to_string(expected) +
                      " bytes of its manifest");
      to.write(out.data(), space.pos);
      more = piece.pos < piece.size || (pending != 0 && space.pos == space.size);
    }
  }
  if (pending != 0) throw damaged(from.string() + ": truncated zstd data");
  if (produced != expected)
    throw damaged(from.string() + ": holds " + std::to_string(produced) + " bytes, expected " +
                  std::to_string(expected));
  to.close();
}

}  // namespace dsv4::golden::detail

namespace dsv4::golden {

DSV4_INLINE shard::shard(const std::filesystem::path& dir, const file_info& info,
                         const shard_options& options)
    : path_(dir / info.name) {
  if (const std::size_t size = size_of_file(path_); size != info.bytes)
    throw damaged(path_.string() + ": found " + std::to_string(size) + " bytes, expected " +
                  std::to_string(info.bytes) + (size < info.bytes ? " (truncated)" : ""));
  if (path_.extension() != ".zst") {
    file_ = io::safetensors::open(path_);
    return;
  }
  if (info.raw_bytes > options.max_raw_bytes)
    throw format_error(path_.string() + ": field 'raw_bytes': found " + std::to_string(info.raw_bytes) +
                       ", expected at most " + std::to_string(options.max_raw_bytes));
  detail::temporary_file raw(options.temporary);
  detail::decompress_file(path_, raw, info.raw_bytes);
  try {
    file_ = io::safetensors::open(raw.path());
  } catch (const format_error& e) {  // the message must name the bundle's file, not the temporary one
    std::string what = e.what();
    if (what.starts_with(raw.path().string())) what.replace(0, raw.path().string().size(), path_.string());
    throw format_error(what);
  }
  // The temporary file can be removed now: the mapping keeps its contents alive.
}

DSV4_INLINE void shard::advise(const std::byte* data, std::size_t bytes, int what) {
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(data) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(data) + bytes;
  if (bytes) ::madvise(reinterpret_cast<void*>(begin), end - begin, what);
}

}  // namespace dsv4::golden
