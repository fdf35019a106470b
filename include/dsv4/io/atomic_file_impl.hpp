// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of atomic_file.hpp.
#include "../core/config_macros.hpp"
#include "atomic_file.hpp"

namespace dsv4::io::detail {

DSV4_INLINE int write_all(int fd, const void* data, std::size_t bytes) {
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

}  // namespace dsv4::io::detail

namespace dsv4::io {

DSV4_INLINE bool is_unfinished_of(std::string_view name, std::string_view of) {
  return name.size() == of.size() + detail::part_mark.size() + detail::part_random && name.starts_with(of) &&
         name.substr(of.size()).starts_with(detail::part_mark) &&
         name.find_first_not_of(detail::part_letters, of.size() + detail::part_mark.size()) == name.npos;
}

DSV4_INLINE atomic_file::atomic_file(std::filesystem::path path, new_file readers)
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

DSV4_INLINE void atomic_file::commit() {
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

DSV4_INLINE void atomic_file::open_directly() {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
  if (fd_ < 0) fail("cannot be written", errno);
}

DSV4_INLINE void atomic_file::follow_links() {
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

DSV4_INLINE void atomic_file::make_part(::mode_t mode) {
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

DSV4_INLINE void atomic_file::take_permissions(const struct ::stat& of) {
  constexpr ::mode_t permissions = 07777;
  struct ::stat now {};
  if (::fstat(fd_, &now) != 0) fail("cannot be examined", errno);
  const bool other_owner = now.st_uid != of.st_uid || now.st_gid != of.st_gid;
  if (other_owner && ::fchown(fd_, of.st_uid, of.st_gid) != 0) errno = 0;
  if (::fchmod(fd_, of.st_mode & permissions) != 0) fail("cannot be given its permissions", errno);
}

DSV4_INLINE void atomic_file::give_up() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  if (!part_.empty()) ::unlink(part_.c_str());
  part_.clear();
  open_files::remove(std::exchange(begun_, nullptr));
}

DSV4_INLINE void write_whole(const std::filesystem::path& path, std::string_view text, new_file readers) {
  atomic_file file(path, readers);
  file.write(text);
  file.commit();
}

}  // namespace dsv4::io
