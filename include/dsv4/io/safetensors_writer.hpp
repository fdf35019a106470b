// SPDX-License-Identifier: MIT
#pragma once
/// Writes safetensors files (the format: safetensors.hpp): names in alphabetical order, the header padded
/// with spaces so that the data begin at a multiple of 8.
/// @throws contract_violation a name twice, bytes that do not fit the shape
/// @throws error the file cannot be written
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../core/contract.hpp"
#include "atomic_file.hpp"
#include "safetensors.hpp"

namespace dsv4::io {

/// Collects tensors, then writes them under their names in alphabetical order.
class safetensors_writer {
 public:
  /// A tensor whose bytes stay the caller's until `write` has run.
  void add(std::string name, dtype type, std::vector<index_t> shape, const void* data) {
    put(std::move(name), type, std::move(shape)).data = static_cast<const std::byte*>(data);
  }
  /// A tensor whose bytes move into the writer.
  void add(std::string name, dtype type, std::vector<index_t> shape, std::vector<std::byte> data) {
    entry& e = put(std::move(name), type, std::move(shape));
    expects_equal(static_cast<index_t>(data.size()), e.bytes, "safetensors_writer: bytes of the tensor");
    e.owned = std::move(data);
    e.data = e.owned.data();
  }
  /// A tensor that `write` asks for piece by piece, so that it is never in memory: make(at, out) writes bytes
  /// [at, at + out.size()) into `out`.  Pieces are whole rows of the first axis.
  void add(std::string name, dtype type, std::vector<index_t> shape,
           std::function<void(index_t, std::span<std::byte>)> make) {
    put(std::move(name), type, std::move(shape)).make = std::move(make);
  }
  /// A view of float, double, bf16, int32 or int64, or of FP8 codes.
  template <class T, int R>
  void add(std::string name, view<T, R> v) {
    const auto n = v.extents();
    add(std::move(name), type_of<std::remove_const_t<T>>(), std::vector<index_t>(n.begin(), n.end()),
        static_cast<const void*>(v.data()));
  }
  std::map<std::string, std::string> metadata;

  /// Whole or not at all.  @throws error the file cannot be written (atomic_file.hpp)
  void write(const std::filesystem::path& path) const {
    atomic_file file(path);
    write_to([&](const void* data, std::size_t bytes) { file.write(data, bytes); });
    file.commit();
  }
  /// The file's bytes in order, piece by piece: sink(data, bytes).
  void write_to(const std::function<void(const void*, std::size_t)>& sink) const {
    const std::string head = header();
    sink(head.data(), head.size());
    std::vector<std::byte> piece;
    for (const auto& [name, e] : entries_) {
      if (e.make)
        write_pieces(sink, e, piece);
      else if (e.bytes)
        sink(e.data, usize(e.bytes));
    }
  }

 private:
  struct entry {
    dtype type;
    std::vector<index_t> shape;
    index_t bytes;
    const std::byte* data = nullptr;
    std::vector<std::byte> owned;
    std::function<void(index_t, std::span<std::byte>)> make;
  };

  static void write_pieces(const std::function<void(const void*, std::size_t)>& sink, const entry& e,
                           std::vector<std::byte>& piece) {
    constexpr index_t about = index_t{1} << 20;
    const index_t row = e.shape.empty() || e.shape[0] == 0 ? e.bytes : e.bytes / e.shape[0];
    const index_t step = std::max(row, row ? about / row * row : about);
    for (index_t at = 0; at < e.bytes; at += step) {
      piece.resize(usize(std::min(step, e.bytes - at)));
      e.make(at, piece);
      sink(piece.data(), piece.size());
    }
  }

  template <class T>
  static constexpr dtype type_of() {
    if constexpr (std::is_same_v<T, double>)
      return dtype::f64;
    else if constexpr (std::is_same_v<T, float>)
      return dtype::f32;
    else if constexpr (std::is_same_v<T, bf16>)
      return dtype::bf16;
    else if constexpr (std::is_same_v<T, f16>)
      return dtype::f16;
    else if constexpr (std::is_same_v<T, e4m3>)
      return dtype::f8_e4m3;
    else if constexpr (std::is_same_v<T, e8m0>)
      return dtype::f8_e8m0;
    else if constexpr (std::is_same_v<T, std::int64_t>)
      return dtype::i64;
    else if constexpr (std::is_same_v<T, std::int32_t>)
      return dtype::i32;
    else
      static_assert(sizeof(T) == 0, "safetensors_writer: no safetensors dtype for this element");
  }

  entry& put(std::string name, dtype type, std::vector<index_t> shape) {
    expects(bits_of(type) % 8 == 0, "safetensors_writer: FP4 is written as I8, two codes per byte");
    expects(name != "__metadata__", "safetensors_writer: a tensor cannot be called __metadata__");
    const index_t each = bits_of(type) / 8;
    const std::optional<index_t> elements = detail::checked_elements(shape, type);
    expects(elements.has_value(), "safetensors_writer: shape " + shape_text(shape));
    const auto [at, is_new] =
        entries_.try_emplace(name, entry{type, std::move(shape), *elements * each, nullptr, {}, {}});
    expects(is_new, "safetensors_writer: " + in_quotes(name) + " was added twice");
    return at->second;
  }

  /// Length and JSON, padded with spaces so that the data begin at a multiple of 8.
  std::string header() const {
    std::string json = "{";
    if (!metadata.empty())
      json += "\"__metadata__\":" + nlohmann::json(metadata).dump() + (entries_.empty() ? "" : ",");
    index_t at = 0;
    bool first = true;
    for (const auto& [name, e] : entries_) {
      if (!std::exchange(first, false)) json += ",";
      json += nlohmann::json(name).dump() + ":{\"dtype\":\"" + std::string(name_of(e.type)) +
              "\",\"shape\":" + nlohmann::json(e.shape).dump() + ",\"data_offsets\":[" + std::to_string(at) +
              "," + std::to_string(at + e.bytes) + "]}";
      at += e.bytes;
    }
    json += "}";
    json.resize((json.size() + 7) / 8 * 8, ' ');
    const std::uint64_t length = json.size();
    std::string out(8, '\0');
    std::memcpy(out.data(), &length, 8);
    return out + json;
  }

  std::map<std::string, entry> entries_;
};

}  // namespace dsv4::io
