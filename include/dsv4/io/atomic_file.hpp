// SPDX-License-Identifier: MIT
#pragma once
/// A file that appears whole or not at all.
///
/// What is written goes to a new file of another name in the same folder.  `commit` forces it to the disk,
/// gives it its name in one step (rename), and forces the folder to the disk.  Whatever happens before that
/// step, a kill or a full disk, leaves what was there before; whatever happens after it leaves the new file.
/// A program that is killed leaves the unfinished file behind, NAME.part-XXXXXX: nothing reads it.
/// @throws error naming the file and the system's reason
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "../core/error.hpp"

namespace dsv4::io {

class atomic_file {
 public:
  explicit atomic_file(std::filesystem::path path)
      : path_(std::move(path)), part_(path_.string() + ".part-XXXXXX") {
    fd_ = ::mkstemp(part_.data());
    if (fd_ < 0) fail("cannot be created");
    ::fcntl(fd_, F_SETFD, FD_CLOEXEC);
  }
  /// Without `commit` nothing has happened.
  ~atomic_file() {
    if (fd_ >= 0) ::close(fd_);
    if (!part_.empty()) ::unlink(part_.c_str());
  }
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;

  void write(const void* data, std::size_t bytes) {
    const char* at = static_cast<const char*>(data);
    while (bytes > 0) {
      const ::ssize_t n = ::write(fd_, at, bytes);  // may write less than asked
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail("cannot be written");
      at += n;
      bytes -= static_cast<std::size_t>(n);
    }
  }

  /// Gives the file its name.
  void commit() {
    // Only its owner may read a new file; one that is replaced keeps its permissions.
    struct ::stat old {};
    constexpr ::mode_t permissions = 07777;
    if (::stat(path_.c_str(), &old) == 0 && ::fchmod(fd_, old.st_mode & permissions) != 0)
      fail("cannot be given its permissions");
    if (::fsync(fd_) != 0) fail("cannot be forced to the disk");
    if (::close(std::exchange(fd_, -1)) != 0) fail("cannot be closed");
    if (::rename(part_.c_str(), path_.c_str()) != 0) fail("cannot be renamed");
    part_.clear();

    const std::string folder = path_.has_parent_path() ? path_.parent_path().string() : ".";
    const int dir = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool forced = dir >= 0 && ::fsync(dir) == 0;
    if (dir >= 0) ::close(dir);
    if (!forced) fail("is written, but its folder cannot be forced to the disk");
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw error(path_.string() + ": " + what + ": " + std::generic_category().message(errno));
  }

  std::filesystem::path path_;
  std::string part_;
  int fd_ = -1;
};

}  // namespace dsv4::io
