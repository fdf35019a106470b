// SPDX-License-Identifier: MIT
#pragma once
/// What this process has mapped, and which files it has begun and not finished: one list for the whole process.
///
///   mapped    so that no output replaces a file that is being read (atomic_file.hpp), and so that a program can say
///             which file was cut short under its feet, where the system only says SIGBUS
///   begun     so that a program that is told to stop takes its unfinished files with it
///
/// Any thread may call any function.  `mapped_at` and `remove_begun` may be called in a signal handler: entries are
/// filled before they are published, are never freed, and are used again.
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <mutex>
#include <string>
#include <utility>

namespace dsv4::io {

class open_files {
 public:
  enum class role : int { unused, mapped, begun };

  struct entry {
    std::atomic<role> what{role::unused};
    const std::byte* begin = nullptr;  ///< of the mapping
    std::size_t size = 0;
    struct ::stat status {};  ///< as it was when it was mapped
    std::string path;
    entry* next = nullptr;
  };

  static entry* add_mapped(std::string path, const std::byte* begin, std::size_t size,
                           const struct ::stat& status);
  static entry* add_begun(std::string path) { return add(role::begun, std::move(path), nullptr, 0, {}); }

  /// Its owner is done with it.  A mapped file that is not what it was when it was opened is remembered: what was
  /// read of it may be wrong (a part that was cut off reads as zeros up to the end of its page).
  static void remove(entry* e);

  /// The path of the mapping that holds this address; null if none does.  For signal handlers.
  static const char* mapped_at(const void* address);

  /// Removes every file that was begun.  For signal handlers that end the program.
  static void remove_begun();

  /// Is this very file mapped now, under whatever name?
  static bool is_mapped(const struct ::stat& file);

  /// The first mapped file that was found changed; empty: none was.
  static std::string first_changed();

  static bool same_file(const struct ::stat& a, const struct ::stat& b) {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
  }

 private:
  static bool same_time(const struct ::stat& a, const struct ::stat& b) {
    return a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
  }
  static void note_changed(const std::string& path);
  static entry* add(role what, std::string path, const std::byte* begin, std::size_t size,
                    const struct ::stat& status);

  // Never destroyed: a handler may run, and a static object may close its files, at the very end.
  static std::atomic<entry*>& first();
  static std::mutex& mutex();
  static std::string& changed();
};

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "open_files_impl.hpp"
#endif
