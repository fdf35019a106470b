// SPDX-License-Identifier: MIT
#pragma once
#include <nlohmann/json.hpp>

#include "safetensors_writer.hpp"

namespace dsv4::io {

DSV4_INLINE void safetensors_writer::add(std::string name, dtype type, std::vector<index_t> shape,
                                         const void* data) {
  put(std::move(name), type, std::move(shape)).data = static_cast<const std::byte*>(data);
}

DSV4_INLINE void safetensors_writer::add(std::string name, dtype type, std::vector<index_t> shape,
                                         std::vector<std::byte> data) {
  entry& e = put(std::move(name), type, std::move(shape));
  expects_equal(static_cast<index_t>(data.size()), e.bytes, "safetensors_writer: bytes of the tensor");
  e.owned = std::move(data);
  e.data = e.owned.data();
}

DSV4_INLINE void safetensors_writer::add(std::string name, dtype type, std::vector<index_t> shape,
                                         std::function<void(index_t, std::span<std::byte>)> make) {
  put(std::move(name), type, std::move(shape)).make = std::move(make);
}

DSV4_INLINE void safetensors_writer::write(const std::filesystem::path& path) const {
  atomic_file file(path);
  write_to([&](const void* data, std::size_t bytes) { file.write(data, bytes); });
  file.commit();
}

DSV4_INLINE void safetensors_writer::write_to(
    const std::function<void(const void*, std::size_t)>& sink) const {
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

DSV4_INLINE void safetensors_writer::write_pieces(const std::function<void(const void*, std::size_t)>& sink,
                                                  const entry& e, std::vector<std::byte>& piece) {
  constexpr index_t about = index_t{1} << 20;
  const index_t row = e.shape.empty() || e.shape[0] == 0 ? e.bytes : e.bytes / e.shape[0];
  const index_t step = std::max(row, row ? about / row * row : about);
  for (index_t at = 0; at < e.bytes; at += step) {
    piece.resize(usize(std::min(step, e.bytes - at)));
    e.make(at, piece);
    sink(piece.data(), piece.size());
  }
}

DSV4_INLINE safetensors_writer::entry& safetensors_writer::put(std::string name, dtype type,
                                                               std::vector<index_t> shape) {
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

DSV4_INLINE std::string safetensors_writer::header() const {
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

}  // namespace dsv4::io
