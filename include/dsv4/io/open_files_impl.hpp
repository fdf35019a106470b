// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of open_files.hpp.
#include "../core/config_macros.hpp"
#include "open_files.hpp"

namespace dsv4::io {

DSV4_INLINE open_files::entry* open_files::add_mapped(std::string path, const std::byte* begin,
                                                      std::size_t size, const struct ::stat& status) {
  return add(role::mapped, std::move(path), begin, size, status);
}

DSV4_INLINE void open_files::remove(entry* e) {
  if (!e) return;
  if (e->what == role::mapped) {
    struct ::stat now {};
    const bool changed = ::stat(e->path.c_str(), &now) == 0 && same_file(now, e->status) &&
                         (now.st_size != e->status.st_size || !same_time(now, e->status));
    if (changed) note_changed(e->path);
  }
  e->what.store(role::unused, std::memory_order_release);
}

DSV4_INLINE const char* open_files::mapped_at(const void* address) {
  const auto* at = static_cast<const std::byte*>(address);
  for (const entry* e = first().load(std::memory_order_acquire); e; e = e->next)
    if (e->what.load(std::memory_order_acquire) == role::mapped && at >= e->begin && at < e->begin + e->size)
      return e->path.c_str();
  return nullptr;
}

DSV4_INLINE void open_files::remove_begun() {
  each(role::begun, [](const char* path) { ::unlink(path); });
  each(role::scratch, [](const char* path) { remove_folder(AT_FDCWD, path); });
  each(role::filled, [](const char* path) { ::rmdir(path); });
}

DSV4_INLINE bool open_files::is_mapped(const struct ::stat& file) {
  const std::lock_guard lock(mutex());
  for (const entry* e = first().load(); e; e = e->next)
    if (e->what == role::mapped && same_file(e->status, file)) return true;
  return false;
}

DSV4_INLINE std::string open_files::first_changed() {
  const std::lock_guard lock(mutex());
  return changed();
}

DSV4_INLINE void open_files::note_changed(const std::string& path) {
  const std::lock_guard lock(mutex());
  if (changed().empty()) changed() = path;
}

DSV4_INLINE open_files::entry* open_files::add(role what, std::string path, const std::byte* begin,
                                               std::size_t size, const struct ::stat& status) {
  const std::lock_guard lock(mutex());
  entry* e = first().load();
  while (e && e->what != role::unused) e = e->next;
  const bool is_new = !e;
  if (is_new) e = new entry;
  e->path = std::move(path);
  e->begin = begin;
  e->size = size;
  e->status = status;
  e->what.store(what, std::memory_order_release);
  if (is_new) {
    e->next = first().load();
    first().store(e, std::memory_order_release);
  }
  return e;
}

DSV4_INLINE std::atomic<open_files::entry*>& open_files::first() {
  static std::atomic<entry*> list{nullptr};
  return list;
}

DSV4_INLINE std::mutex& open_files::mutex() {
  static auto* m = new std::mutex;
  return *m;
}

DSV4_INLINE std::string& open_files::changed() {
  static auto* path = new std::string;
  return *path;
}

}  // namespace dsv4::io
