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
int write_all(int fd, const void* data, std::size_t bytes);

}  // namespace detail

/// Is `name` what an unfinished write of the file `of` is called?  Both without their folder.
bool is_unfinished_of(std::string_view name, std::string_view of);

class atomic_file {
 public:
  // Delegates, so that the destructor takes back what a constructor that throws has begun.
  explicit atomic_file(std::filesystem::path path, new_file readers = new_file::as_umask);
  /// Without `commit` nothing has happened.
  ~atomic_file() { give_up(); }
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;

  void write(const void* data, std::size_t bytes) {
    if (const int code = detail::write_all(fd_, data, bytes)) fail("cannot be written", code);
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Gives the file its name.
  void commit();

 private:
  struct begin_tag {};
  atomic_file(begin_tag, std::filesystem::path path) : path_(std::move(path)) {}

  [[noreturn]] void fail(const std::string& what, int code) const {
    throw error(path_.string() + ": " + what + ": " + detail::reason(code));
  }
  std::string folder() const { return target_.has_parent_path() ? target_.parent_path().string() : "."; }

  void open_directly();

  /// target_: the path with every link at its end followed.
  void follow_links();

  void make_part(::mode_t mode);

  /// The file that is replaced says who may read the new one.  Only some may give a file another owner.
  void take_permissions(const struct ::stat& of);

  void give_up();

  std::filesystem::path path_, target_;
  std::string part_;
  open_files::entry* begun_ = nullptr;
  int fd_ = -1;
};

/// A whole file of this text.
void write_whole(const std::filesystem::path& path, std::string_view text,
                 new_file readers = new_file::as_umask);

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "atomic_file_impl.hpp"
#endif
