// SPDX-License-Identifier: MIT
#pragma once
/// Writes GGUF files (the format: gguf.hpp), version 3, alignment 32: metadata and tensors in the order in which
/// they were added.
/// @throws contract_violation a key or name twice, bytes that are not those of the shape
/// @throws error the file cannot be written
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "../core/contract.hpp"
#include "atomic_file.hpp"
#include "gguf.hpp"

namespace dsv4::io {

class gguf_writer {
 public:
  /// Where a tensor's bytes go, piece by piece.
  using sink = std::function<void(const void*, std::size_t)>;

  void put(const std::string& key, std::uint32_t v) { number(key, gguf_kind::u32, v); }
  void put(const std::string& key, float v) { number(key, gguf_kind::f32, v); }
  void put(const std::string& key, bool v) { number(key, gguf_kind::boolean, static_cast<std::uint8_t>(v)); }
  void put(const std::string& key, std::string_view v);
  void put(const std::string& key, const std::vector<std::uint32_t>& v) { list(key, gguf_kind::u32, v); }
  void put(const std::string& key, const std::vector<float>& v) { list(key, gguf_kind::f32, v); }
  void put(const std::string& key, std::span<const std::byte> v);

  /// A tensor of this shape (row-major); `make` gives its bytes to the sink when the file is written.
  void add(std::string name, gguf_type type, std::vector<index_t> shape,
           std::function<void(const sink&)> make);

  /// Whole or not at all.
  void write(const std::filesystem::path& path) const;

 private:
  struct entry {
    std::string name;
    gguf_type type;
    std::vector<index_t> shape;
    std::size_t bytes;
    std::function<void(const sink&)> make;
  };
  void key(const std::string& name, gguf_kind kind);
  void raw(const void* data, std::size_t bytes);
  template <class T>
  void plain(T v) {
    raw(&v, sizeof v);
  }
  template <class T>
  void number(const std::string& name, gguf_kind kind, T v) {
    key(name, kind);
    plain(v);
  }
  template <class T>
  void list(const std::string& name, gguf_kind kind, const std::vector<T>& v) {
    key(name, gguf_kind::list);
    plain(static_cast<std::uint32_t>(kind));
    plain(static_cast<std::uint64_t>(v.size()));
    raw(v.data(), v.size() * sizeof(T));
  }

  std::string metadata_;
  std::set<std::string> keys_, names_;
  std::vector<entry> tensors_;
};

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "gguf_writer_impl.hpp"
#endif
