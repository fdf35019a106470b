// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of gguf_writer.hpp.
#include "../core/config_macros.hpp"
#include "gguf_writer.hpp"

namespace dsv4::io {

DSV4_INLINE void gguf_writer::raw(const void* data, std::size_t bytes) {
  metadata_.append(static_cast<const char*>(data), bytes);
}

DSV4_INLINE void gguf_writer::key(const std::string& name, gguf_kind kind) {
  expects(keys_.insert(name).second, "gguf_writer: the key " + in_quotes(name) + " twice");
  plain(static_cast<std::uint64_t>(name.size()));
  raw(name.data(), name.size());
  plain(static_cast<std::uint32_t>(kind));
}

DSV4_INLINE void gguf_writer::put(const std::string& name, std::string_view v) {
  key(name, gguf_kind::text);
  plain(static_cast<std::uint64_t>(v.size()));
  raw(v.data(), v.size());
}

DSV4_INLINE void gguf_writer::put(const std::string& name, std::span<const std::byte> v) {
  key(name, gguf_kind::list);
  plain(static_cast<std::uint32_t>(gguf_kind::u8));
  plain(static_cast<std::uint64_t>(v.size()));
  raw(v.data(), v.size());
}

DSV4_INLINE void gguf_writer::add(std::string name, gguf_type type, std::vector<index_t> shape,
                                  std::function<void(const sink&)> make) {
  expects(names_.insert(name).second, "gguf_writer: the tensor " + in_quotes(name) + " twice");
  const auto block = block_of(type);
  expects(block.has_value() && !shape.empty() && shape.size() <= 4 && shape.back() % block->values == 0,
          "gguf_writer: " + in_quotes(name) + ": 1 to 4 axes, rows of whole blocks");
  index_t elements = 1;
  for (const index_t n : shape) elements *= n;
  tensors_.push_back({std::move(name), type, std::move(shape), usize(elements / block->values * block->bytes),
                      std::move(make)});
}

DSV4_INLINE void gguf_writer::write(const std::filesystem::path& path) const {
  constexpr std::size_t step = gguf::default_alignment;
  const auto padding = [](std::size_t at) { return (step - at % step) % step; };
  std::string head;
  const auto put = [&](auto v) { head.append(reinterpret_cast<const char*>(&v), sizeof v); };
  head += "GGUF";
  put(std::uint32_t{3});
  put(static_cast<std::uint64_t>(tensors_.size()));
  put(static_cast<std::uint64_t>(keys_.size()));
  head += metadata_;
  std::uint64_t offset = 0;
  for (const entry& t : tensors_) {
    put(static_cast<std::uint64_t>(t.name.size()));
    head += t.name;
    put(static_cast<std::uint32_t>(t.shape.size()));
    for (std::size_t a = t.shape.size(); a-- > 0;) put(static_cast<std::uint64_t>(t.shape[a]));
    put(static_cast<std::uint32_t>(t.type));
    put(offset);
    offset += t.bytes + padding(t.bytes);
  }
  head.append(padding(head.size()), '\0');

  atomic_file out(path);
  out.write(head.data(), head.size());
  const std::string zeros(step, '\0');
  for (const entry& t : tensors_) {
    std::size_t written = 0;
    t.make([&](const void* data, std::size_t bytes) {
      written += bytes;
      expects(written <= t.bytes, "gguf_writer: " + in_quotes(t.name) + ": more bytes than its shape has");
      out.write(data, bytes);
    });
    expects(written == t.bytes, "gguf_writer: " + in_quotes(t.name) + ": fewer bytes than its shape has");
    out.write(zeros.data(), padding(written));
  }
  out.commit();
}

}  // namespace dsv4::io
