// SPDX-License-Identifier: MIT
#pragma once
/// A whole file as read-only memory, mapped: opening costs no read, and pages that are never touched
/// never take memory.  The file must not change while it is mapped: what was cut off reads as zeros up to the end of
/// its page, and touching a page beyond that stops the program (SIGBUS).  open_files.hpp lists every mapping, so that
/// a program can name the file then; replacing a file by rename is safe, the mapping keeps the old one.
/// @throws format_error naming the path, when it cannot be opened or is not a regular file
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "message.hpp"
#include "open_files.hpp"

namespace dsv4::io {

class mapped_file {
 public:
  mapped_file() = default;
  explicit mapped_file(std::filesystem::path path) : path_(std::move(path)) {
    // O_NONBLOCK: a named pipe is refused below instead of waiting for its writer.
    const descriptor fd{::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (fd.number < 0) fail_format(path_, "cannot be opened: " + reason());
    struct ::stat status {};
    if (::fstat(fd.number, &status) != 0) fail_format(path_, "cannot be examined: " + reason());
    if (!S_ISREG(status.st_mode)) fail_format(path_, "is not a regular file");
    size_ = usize(status.st_size);
    if (size_ == 0) return;  // the system maps no empty range; an empty view needs none
    void* p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd.number, 0);
    if (p == MAP_FAILED)
      fail_format(path_, "cannot be mapped (" + std::to_string(size_) + " bytes): " + reason());
    try {
      entry_ = open_files::add_mapped(path_.string(), static_cast<const std::byte*>(p), size_, status);
    } catch (...) {
      ::munmap(p, size_);
      throw;
    }
    data_ = static_cast<const std::byte*>(p);
  }
  ~mapped_file() {
    open_files::remove(entry_);
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  }
  mapped_file(mapped_file&& o) noexcept
      : path_(std::move(o.path_)),
        data_(std::exchange(o.data_, nullptr)),
        size_(std::exchange(o.size_, 0)),
        entry_(std::exchange(o.entry_, nullptr)) {}
  mapped_file& operator=(mapped_file&& o) noexcept {
    std::swap(path_, o.path_);
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(entry_, o.entry_);
    return *this;
  }

  const std::byte* data() const& { return data_; }  ///< null when the file is empty
  const std::byte* data() const&& = delete;
  std::size_t size() const { return size_; }
  const std::filesystem::path& path() const& { return path_; }
  const std::filesystem::path& path() const&& = delete;
  std::string_view text() const& { return {reinterpret_cast<const char*>(data_), size_}; }
  std::string_view text() const&& = delete;

 private:
  struct descriptor {
    int number;
    ~descriptor() {
      if (number >= 0) ::close(number);
    }
  };
  static std::string reason() { return std::generic_category().message(errno); }

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  open_files::entry* entry_ = nullptr;
};

}  // namespace dsv4::io
