// SPDX-License-Identifier: MIT
#pragma once
/// The one way in which this library writes a file: it appears whole or not at all.
///
///   io::atomic_file file("model.safetensors");   // nothing has happened to model.safetensors
///   file.write(data, bytes);
///   file.commit();                               // now it has, in one step
///
/// What is written goes to a new file in the same folder, NAME.part-XXXXXX.  `commit` forces it to the disk, gives it
/// its name (rename), and forces the folder to the disk.  Whatever happens before that step, an error or a full disk,
/// leaves what was there before, and takes the unfinished file away; whatever happens after it leaves the new file.
/// Only a kill can leave the unfinished file behind: nothing reads it, and `is_unfinished_of` knows its name.
///
/// - A symbolic link stays one: what it leads to is replaced, or made.
/// - What is no regular file (a device, a pipe, /dev/stdout) is written to as the bytes come, not replaced.
/// - A file that is replaced keeps its permissions, and its owner where the system allows it.
/// - Refused: a file that may not be written although its folder may, and one that this process reads
///   (open_files.hpp), under whatever name.
/// @throws contract_violation the path is a folder, or a file that is being read
/// @throws error naming the file and the system's reason
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "../core/error.hpp"
#include "open_files.hpp"

namespace dsv4::io {

/// Who may read a file that was not there before.
enum class new_file {
  as_umask,   ///< whoever the process's umask lets, as for any other program's files
  owner_only  ///< its owner: conversations
};

namespace detail {

inline constexpr std::string_view part_mark = ".part-";
inline constexpr std::string_view part_letters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
inline constexpr std::size_t part_random = 6;  // 62^6 names

inline std::string reason(int code) { return std::generic_category().message(code); }

/// Writes all of it, or returns the system's reason.
inline int write_all(int fd, const void* data, std::size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ::ssize_t n = ::write(fd, at, bytes);  // may write less than asked
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    at += n;
    bytes -= static_cast<std::size_t>(n);
  }
  return 0;
}

}  // namespace detail

/// Is `name` what an unfinished write of the file `of` is called?  Both without their folder.
inline bool is_unfinished_of(std::string_view name, std::string_view of) {
  return name.size() == of.size() + detail::part_mark.size() + detail::part_random && name.starts_with(of) &&
         name.substr(of.size()).starts_with(detail::part_mark) &&
         name.find_first_not_of(detail::part_letters, of.size() + detail::part_mark.size()) == name.npos;
}

class atomic_file {
 public:
  // Delegates, so that the destructor takes back what a constructor that throws has begun.
  explicit atomic_file(std::filesystem::path path, new_file readers = new_file::as_umask)
      : atomic_file(begin_tag{}, std::move(path)) {
    struct ::stat there {};
    const bool exists = ::stat(path_.c_str(), &there) == 0;
    if (!exists && errno != ENOENT) fail("cannot be written", errno);  // a link that leads nowhere is ENOENT
    if (exists && S_ISDIR(there.st_mode))
      throw contract_violation(path_.string() + ": is a folder, not a file");
    if (exists && open_files::is_mapped(there))
      throw contract_violation(path_.string() + ": is being read, and would be replaced; name another file");
    follow_links();
    if (fd_ >= 0) return;  // a stream of this process, /dev/stdout
    if (exists && !S_ISREG(there.st_mode)) {
      open_directly();
      return;
    }
    if (exists && ::faccessat(AT_FDCWD, target_.c_str(), W_OK, AT_EACCESS) != 0)
      fail("cannot be written", errno);
    constexpr ::mode_t everyone = 0666, owner = 0600;  // less the umask
    make_part(exists || readers == new_file::owner_only ? owner : everyone);
    if (exists) take_permissions(there);
  }
  /// Without `commit` nothing has happened.
  ~atomic_file() { give_up(); }
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;

  void write(const void* data, std::size_t bytes) {
    if (const int code = detail::write_all(fd_, data, bytes)) fail("cannot be written", code);
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Gives the file its name.
  void commit() {
    if (part_.empty()) {  // written as it came
      if (::close(std::exchange(fd_, -1)) != 0) fail("cannot be closed", errno);
      return;
    }
    if (::fsync(fd_) != 0) fail("cannot be forced to the disk", errno);
    if (::close(std::exchange(fd_, -1)) != 0) fail("cannot be closed", errno);
    if (::rename(part_.c_str(), target_.c_str()) != 0) fail("cannot be renamed", errno);
    part_.clear();
    open_files::remove(std::exchange(begun_, nullptr));

    const int dir = ::open(folder().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool forced = dir >= 0 && ::fsync(dir) == 0;
    const int code = errno;
    if (dir >= 0) ::close(dir);
    // Some file systems cannot force a folder; the file is as safe there as it can be.
    if (!forced && code != EINVAL && code != ENOTSUP && code != EACCES)
      fail("is written, but its folder cannot be forced to the disk", code);
  }

 private:
  struct begin_tag {};
  atomic_file(begin_tag, std::filesystem::path path) : path_(std::move(path)) {}

  [[noreturn]] void fail(const std::string& what, int code) const {
    throw error(path_.string() + ": " + what + ": " + detail::reason(code));
  }
  std::string folder() const { return target_.has_parent_path() ? target_.parent_path().string() : "."; }

  void open_directly() {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd_ < 0) fail("cannot be written", errno);
  }

  /// target_: the path with every link at its end followed.
  void follow_links() {
    namespace fs = std::filesystem;
    target_ = path_;
    constexpr int most_links = 40;  // as the system follows at most
    for (int links = 0;; ++links) {
      std::error_code none;
      // /dev/stdout leads here: the stream that is open, whose place in its file goes on.
      if (const fs::path in = target_.parent_path(); in == "/proc/self/fd" || in == "/dev/fd") {
        const std::string number = target_.filename().string();
        int open = -1;
        const auto [end, fault] = std::from_chars(number.data(), number.data() + number.size(), open);
        if (fault == std::errc() && end == number.data() + number.size()) {
          fd_ = ::fcntl(open, F_DUPFD_CLOEXEC, 0);
          if (fd_ < 0) fail("cannot be written", errno);
          return;
        }
      }
      if (fs::symlink_status(target_, none).type() != fs::file_type::symlink) return;
      const fs::path to = fs::read_symlink(target_, none);
      if (none) fail("is a link that cannot be read", none.value());
      if (links == most_links) fail("cannot be written", ELOOP);
      target_ = target_.parent_path() / to;  // an absolute `to` replaces all before it
    }
  }

  void make_part(::mode_t mode) {
    // The system's limit for a name holds with the addition, too.
    constexpr std::size_t most = 255 - detail::part_mark.size() - detail::part_random;
    const std::string name = target_.filename().string().substr(0, most) + std::string(detail::part_mark);
    std::random_device random;
    std::uniform_int_distribution<std::size_t> letter(0, detail::part_letters.size() - 1);
    constexpr int tries = 100;
    for (int i = 0; i < tries && fd_ < 0; ++i) {
      std::string full = name;
      for (std::size_t k = 0; k < detail::part_random; ++k) full += detail::part_letters[letter(random)];
      part_ = (target_.parent_path() / full).string();
      fd_ = ::open(part_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
      if (fd_ < 0) {
        const int code = errno;
        part_.clear();  // not ours
        if (code != EEXIST) fail("cannot be created", code);
      }
    }
    if (fd_ < 0) fail("cannot be created", EEXIST);
    begun_ = open_files::add_begun(part_);
  }

  /// The file that is replaced says who may read the new one.  Only some may give a file another owner.
  void take_permissions(const struct ::stat& of) {
    constexpr ::mode_t permissions = 07777;
    struct ::stat now {};
    if (::fstat(fd_, &now) != 0) fail("cannot be examined", errno);
    const bool other_owner = now.st_uid != of.st_uid || now.st_gid != of.st_gid;
    if (other_owner && ::fchown(fd_, of.st_uid, of.st_gid) != 0) errno = 0;
    if (::fchmod(fd_, of.st_mode & permissions) != 0) fail("cannot be given its permissions", errno);
  }

  void give_up() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    if (!part_.empty()) ::unlink(part_.c_str());
    part_.clear();
    open_files::remove(std::exchange(begun_, nullptr));
  }

  std::filesystem::path path_, target_;
  std::string part_;
  open_files::entry* begun_ = nullptr;
  int fd_ = -1;
};

/// A whole file of this text.
inline void write_whole(const std::filesystem::path& path, std::string_view text,
                        new_file readers = new_file::as_umask) {
  atomic_file file(path, readers);
  file.write(text);
  file.commit();
}

}  // namespace dsv4::io
