// SPDX-License-Identifier: MIT
#pragma once
/// A lock between processes: whoever holds the lock of a file may do what the file stands for, the others may not.
///
///   auto lock = io::file_lock::try_take("run/run.lock");
///   if (!lock) ...   lock.holder() is using it
///
/// The system gives the lock back when its owner ends, however it ends, so that nothing is ever left locked.  The file
/// stays: who removed it could take away the one that a third process has just locked.  It holds the process id of
/// the last holder, for messages.
/// @throws error the file cannot be made
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <string>
#include <utility>

#include "../core/error.hpp"
#include "atomic_file.hpp"

namespace dsv4::io {

class file_lock {
 public:
  /// At once: held, or another has it.
  static file_lock try_take(const std::filesystem::path& path) { return file_lock(path, LOCK_EX | LOCK_NB); }
  /// Waits for the others.
  static file_lock take(const std::filesystem::path& path) { return file_lock(path, LOCK_EX); }

  file_lock() = default;
  ~file_lock() {
    if (fd_ >= 0) ::close(fd_);
  }
  file_lock(file_lock&& o) noexcept
      : fd_(std::exchange(o.fd_, -1)),
        is_new_(o.is_new_),
        supported_(o.supported_),
        holder_(std::move(o.holder_)) {}
  file_lock& operator=(file_lock&& o) noexcept {
    std::swap(fd_, o.fd_);
    std::swap(is_new_, o.is_new_);
    std::swap(supported_, o.supported_);
    std::swap(holder_, o.holder_);
    return *this;
  }

  /// Nobody else has it: held, or this file system knows no locks (`supported` is false then).
  explicit operator bool() const { return fd_ >= 0; }
  bool supported() const { return supported_; }
  /// The file was not there before.
  bool is_new() const { return is_new_; }
  /// "process 1234", or "another process"
  const std::string& holder() const { return holder_; }

 private:
  file_lock(const std::filesystem::path& path, int how) {
    const auto fail = [&](const char* what) {
      throw error(path.string() + ": " + what + ": " + detail::reason(errno));
    };
    constexpr ::mode_t everyone = 0666;  // less the umask
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, everyone);
    is_new_ = fd_ >= 0;
    if (fd_ < 0 && errno == EEXIST) fd_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd_ < 0) fail("cannot be opened");
    int locked = 0;
    do locked = ::flock(fd_, how);
    while (locked != 0 && errno == EINTR);
    if (locked != 0 && errno == EWOULDBLOCK) {
      read_holder();
      ::close(std::exchange(fd_, -1));
      return;
    }
    supported_ = locked == 0;
    // For messages only, so that a full disk does no harm here.
    const std::string mine = std::to_string(::getpid()) + "\n";
    if (::ftruncate(fd_, 0) == 0 && ::pwrite(fd_, mine.data(), mine.size(), 0) < 0) errno = 0;
  }
  void read_holder() {
    std::array<char, 16> text{};
    const ::ssize_t n = ::pread(fd_, text.data(), text.size(), 0);
    std::string number;
    for (::ssize_t i = 0;
         i < n && text[static_cast<std::size_t>(i)] >= '0' && text[static_cast<std::size_t>(i)] <= '9'; ++i)
      number += text[static_cast<std::size_t>(i)];
    holder_ = number.empty() ? "another process" : "process " + number;
  }

  int fd_ = -1;
  bool is_new_ = false, supported_ = true;
  std::string holder_;
};

}  // namespace dsv4::io
