// SPDX-License-Identifier: MIT
#pragma once
/// What this process has mapped, and which files it has begun and not finished: one list for the whole process.
///
///   mapped    so that no output replaces a file that is being read (atomic_file.hpp), and so that a program can say
///             which file was cut short under its feet, where the system only says SIGBUS
///   begun     so that a program that is told to stop takes its unfinished files with it
///   filled    a new folder for the user that is not complete: goes too, once its files have gone, if nothing else is in it
///   scratch   a folder of temporary files: goes with all that is in it
///
/// Any thread may call any function.  `mapped_at` and `remove_begun` may be called in a signal handler: entries are
/// filled before they are published, are never freed, and are used again.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

namespace dsv4::io {

class open_files {
 public:
  enum class role : int { unused, mapped, begun, filled, scratch };

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
  static entry* add_begun(std::string path, role what = role::begun) {
    return add(what, std::move(path), nullptr, 0, {});
  }

  /// Its owner is done with it.  A mapped file that is not what it was when it was opened is remembered: what was
  /// read of it may be wrong (a part that was cut off reads as zeros up to the end of its page).
  static void remove(entry* e);

  /// The path of the mapping that holds this address; null if none does.  For signal handlers.
  static const char* mapped_at(const void* address);

  /// Removes what was begun and is not finished.  For signal handlers that end the program.
  static void remove_begun();

  /// Is this very file mapped now, under whatever name?
  static bool is_mapped(const struct ::stat& file);

  /// The first mapped file that was found changed; empty: none was.
  static std::string first_changed();

  static bool same_file(const struct ::stat& a, const struct ::stat& b) {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
  }

 private:
  template <class F>
  static void each(role what, F&& f) {
    for (const entry* e = first().load(std::memory_order_acquire); e; e = e->next)
      if (e->what.load(std::memory_order_acquire) == what) f(e->path.c_str());
  }

  /// A folder and all that is in it, by calls of the system alone: opendir and std::filesystem take memory, which a
  /// signal handler may not.  Links are removed, not followed.  `name` lies in the folder that is open as `at`.
  static void remove_folder(int at, const char* name) {
    // What getdents64 writes (its manual): ino and off of 8 bytes each, the record's length, one byte, the name.
    constexpr std::size_t length_at = 2 * sizeof(std::uint64_t),
                          name_at = length_at + sizeof(std::uint16_t) + 1;
    constexpr int tries = 100;  // another thread may still be making files there
    for (int i = 0; i < tries; ++i) {
      const int dir = ::openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (dir < 0) return;
      alignas(std::uint64_t) std::array<char, 4096> records;
      for (long n; (n = ::syscall(SYS_getdents64, dir, records.data(), records.size())) > 0;)
        for (std::size_t r = 0; r < static_cast<std::size_t>(n);) {
          const char* entry_name = records.data() + r + name_at;
          std::uint16_t length;
          std::memcpy(&length, records.data() + r + length_at, sizeof length);
          r += length;
          if (std::strcmp(entry_name, ".") == 0 || std::strcmp(entry_name, "..") == 0) continue;
          if (::unlinkat(dir, entry_name, 0) != 0) remove_folder(dir, entry_name);
        }
      ::close(dir);
      if (::unlinkat(at, name, AT_REMOVEDIR) == 0 || errno != ENOTEMPTY) return;
    }
  }

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
