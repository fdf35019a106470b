// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of gguf.hpp.
#include <bit>
#include <cstring>
#include <limits>

#include "../core/config_macros.hpp"
#include "gguf.hpp"

namespace dsv4::io {

static_assert(std::endian::native == std::endian::little,
              "GGUF is read in place: little-endian machines only");

DSV4_INLINE std::optional<gguf_block> block_of(gguf_type type) {
  switch (type) {
    case gguf_type::f32:
    case gguf_type::i32: return gguf_block{1, 4};
    case gguf_type::f16:
    case gguf_type::i16:
    case gguf_type::bf16: return gguf_block{1, 2};
    case gguf_type::i8: return gguf_block{1, 1};
    case gguf_type::i64:
    case gguf_type::f64: return gguf_block{1, 8};
    case gguf_type::q8_0: return q8_0_block;
    case gguf_type::mxfp4: return mxfp4_block;
  }
  return std::nullopt;
}

DSV4_INLINE std::string name_of(gguf_type type) {
  switch (type) {
    case gguf_type::f32: return "F32";
    case gguf_type::f16: return "F16";
    case gguf_type::q8_0: return "Q8_0";
    case gguf_type::i8: return "I8";
    case gguf_type::i16: return "I16";
    case gguf_type::i32: return "I32";
    case gguf_type::i64: return "I64";
    case gguf_type::f64: return "F64";
    case gguf_type::bf16: return "BF16";
    case gguf_type::mxfp4: return "MXFP4";
  }
  return "type " + std::to_string(static_cast<std::uint32_t>(type));
}

namespace detail {

/// Bytes of a metadata number; 0 of texts and lists, which have no fixed size.
constexpr std::size_t size_of(gguf_kind kind) {
  switch (kind) {
    case gguf_kind::u8:
    case gguf_kind::i8:
    case gguf_kind::boolean: return 1;
    case gguf_kind::u16:
    case gguf_kind::i16: return 2;
    case gguf_kind::u32:
    case gguf_kind::i32:
    case gguf_kind::f32: return 4;
    case gguf_kind::u64:
    case gguf_kind::i64:
    case gguf_kind::f64: return 8;
    default: return 0;
  }
}

/// Walks over the bytes of a file; nothing is read that is not there.
class gguf_cursor {
 public:
  gguf_cursor(const std::filesystem::path& file, std::span<const std::byte> bytes)
      : file_(file), bytes_(bytes) {}

  std::size_t at() const { return at_; }
  std::size_t left() const { return bytes_.size() - at_; }
  std::span<const std::byte> take(std::uint64_t n, const char* what) {
    if (n > left())
      fail_format(file_, "ends at byte " + std::to_string(bytes_.size()) + ", in " + what + " of " +
                             std::to_string(n) + " bytes at " + std::to_string(at_));
    const auto out = bytes_.subspan(at_, static_cast<std::size_t>(n));
    at_ += static_cast<std::size_t>(n);
    return out;
  }
  template <class T>
  T number(const char* what) {
    T v;
    std::memcpy(&v, take(sizeof v, what).data(), sizeof v);
    return v;
  }
  std::string_view text(const char* what) {
    const auto b = take(number<std::uint64_t>(what), what);
    return {reinterpret_cast<const char*>(b.data()), b.size()};
  }
  /// So many things of at least `each` bytes must still fit into the file.
  void expect_room(std::uint64_t count, std::size_t each, const char* what) const {
    if (count > left() / each)
      fail_format(file_, "announces " + std::to_string(count) + " " + what + ", which " +
                             std::to_string(left()) + " bytes cannot hold");
  }
  gguf_kind kind(const char* what) {
    const auto k = number<std::uint32_t>(what);
    if (k > static_cast<std::uint32_t>(gguf_kind::f64))
      fail_format(file_, std::string(what) + ": found type " + std::to_string(k) + ", expected 0 to 12");
    return static_cast<gguf_kind>(k);
  }
  gguf_value value() {
    gguf_value v;
    v.kind = kind("a metadata value");
    if (v.kind == gguf_kind::list) {
      v.is_list = true;
      v.kind = kind("a metadata list");
      v.count = number<std::uint64_t>("a metadata list");
      if (v.kind == gguf_kind::list) fail_unsupported(file_, "metadata lists of lists");
    }
    if (v.kind == gguf_kind::text) {
      expect_room(v.count, sizeof(std::uint64_t), "texts");
      const std::size_t begin = at_;
      for (std::uint64_t i = 0; i < v.count; ++i) text("a metadata text");
      v.bytes = bytes_.subspan(begin, at_ - begin);
    } else {
      expect_room(v.count, size_of(v.kind), "metadata numbers");
      v.bytes = take(v.count * size_of(v.kind), "metadata numbers");
    }
    return v;
  }

 private:
  const std::filesystem::path& file_;
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

/// Number i of a value; nothing for texts.
inline std::optional<double> real_at(const gguf_value& v, std::uint64_t i) {
  const std::byte* p = v.bytes.data() + i * size_of(v.kind);
  const auto as = [&]<class T>(T x) {
    std::memcpy(&x, p, sizeof x);
    return static_cast<double>(x);
  };
  switch (v.kind) {
    case gguf_kind::u8:
    case gguf_kind::boolean: return as(std::uint8_t{});
    case gguf_kind::i8: return as(std::int8_t{});
    case gguf_kind::u16: return as(std::uint16_t{});
    case gguf_kind::i16: return as(std::int16_t{});
    case gguf_kind::u32: return as(std::uint32_t{});
    case gguf_kind::i32: return as(std::int32_t{});
    case gguf_kind::f32: return as(0.0f);
    case gguf_kind::u64: return as(std::uint64_t{});
    case gguf_kind::i64: return as(std::int64_t{});
    case gguf_kind::f64: return as(0.0);
    default: return std::nullopt;
  }
}

}  // namespace detail

DSV4_INLINE gguf gguf::open(const std::filesystem::path& path) {
  gguf g;
  g.path_ = path;
  g.map_ = mapped_file(path);
  g.read({g.map_.data(), g.map_.size()});
  return g;
}

DSV4_INLINE gguf gguf::parse(const std::filesystem::path& name, std::span<const std::byte> bytes) {
  gguf g;
  g.path_ = name;
  g.read(bytes);
  return g;
}

DSV4_INLINE void gguf::read(std::span<const std::byte> file) {
  detail::gguf_cursor in(path_, file);
  const auto magic = in.take(4, "the magic number");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0)
    fail_format(path_, "is no GGUF file: it does not begin with 'GGUF'");
  const auto version = in.number<std::uint32_t>("the version");
  constexpr std::uint32_t oldest = 2, newest = 3;  // 1 had lengths of 32 bits
  if ((version & 0xFFFF) == 0) fail_unsupported(path_, "is a big-endian GGUF");
  if (version < oldest || version > newest)
    fail_unsupported(path_, "is GGUF version " + std::to_string(version) + ", expected 2 or 3");
  const auto tensors = in.number<std::uint64_t>("the number of tensors"),
             entries = in.number<std::uint64_t>("the number of metadata entries");
  constexpr std::size_t least_entry = 8 + 4 + 1, least_tensor = 8 + 4 + 4 + 8;
  in.expect_room(entries, least_entry, "metadata entries");
  for (std::uint64_t i = 0; i < entries; ++i) {
    const std::string key(in.text("a metadata key"));
    if (!metadata_.emplace(key, in.value()).second)
      fail_format(path_, "metadata key " + in_quotes(key) + " is there twice");
  }
  if (integer("split.count").value_or(1) > 1)
    fail_unsupported(path_, "is one part of several; llama-gguf-split --merge makes one file of them");
  const std::int64_t alignment = integer("general.alignment").value_or(default_alignment);
  constexpr std::int64_t most_alignment = 1 << 20;
  if (alignment < 1 || alignment > most_alignment ||
      !std::has_single_bit(static_cast<std::uint64_t>(alignment)))
    refuse("general.alignment", "a power of two");

  in.expect_room(tensors, least_tensor, "tensors");
  std::vector<std::uint64_t> offsets;
  tensors_.reserve(static_cast<std::size_t>(tensors));
  for (std::uint64_t i = 0; i < tensors; ++i) {
    gguf_tensor t;
    t.name = in.text("a tensor's name");
    const auto who = [&] { return "tensor " + in_quotes(t.name) + ": "; };
    const auto axes = in.number<std::uint32_t>("a tensor's axes");
    constexpr std::uint32_t most_axes = 4;
    if (axes > most_axes)
      fail_format(path_, who() + "found " + std::to_string(axes) + " axes, expected at most 4");
    t.elements = 1;
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / 64;  // room for any type's bytes
    for (std::uint32_t a = 0; a < axes; ++a) {
      const auto n = in.number<std::uint64_t>("a tensor's sizes");
      if (n > static_cast<std::uint64_t>(most) || (n > 0 && t.elements > most / static_cast<std::int64_t>(n)))
        fail_format(path_, who() + "its sizes overflow");
      t.shape.insert(t.shape.begin(), static_cast<index_t>(n));
      t.elements *= static_cast<index_t>(n);
    }
    t.type = static_cast<gguf_type>(in.number<std::uint32_t>("a tensor's type"));
    offsets.push_back(in.number<std::uint64_t>("a tensor's offset"));
    tensors_.push_back(std::move(t));
  }
  const std::size_t step = static_cast<std::size_t>(alignment);
  const std::size_t begin = std::min(file.size(), (in.at() + step - 1) / step * step);
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    gguf_tensor& t = tensors_[i];
    if (!by_name_.emplace(t.name, i).second)
      fail_format(path_, "tensor " + in_quotes(t.name) + " is there twice");
    const auto block = block_of(t.type);
    if (!block) continue;
    const std::string who = "tensor " + in_quotes(t.name) + " of shape " + shape_text(t.shape) + ": ";
    const index_t row = t.shape.empty() ? 1 : t.shape.back();
    if (row % block->values != 0)
      fail_format(path_, who + "rows of " + std::to_string(row) + " values, expected whole blocks of " +
                             std::to_string(block->values) + " (" + name_of(t.type) + ")");
    t.bytes = usize(t.elements / block->values * block->bytes);
    if (offsets[i] % step != 0) fail_format(path_, who + "its offset is no multiple of the alignment");
    if (offsets[i] > file.size() - begin ||
        t.bytes > file.size() - begin - static_cast<std::size_t>(offsets[i]))
      fail_format(path_, who + std::to_string(t.bytes) + " bytes at " + std::to_string(offsets[i]) +
                             " of the data reach beyond the file's end");
    t.data = file.data() + begin + static_cast<std::size_t>(offsets[i]);
  }
}

DSV4_INLINE const gguf_tensor* gguf::find(std::string_view name) const& {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

DSV4_INLINE const gguf_value* gguf::value(std::string_view key) const {
  const auto at = metadata_.find(key);
  return at == metadata_.end() ? nullptr : &at->second;
}

DSV4_INLINE void gguf::refuse(std::string_view key, const std::string& expected) const {
  fail_format(path_, "metadata " + in_quotes(key) + ": expected " + expected);
}

DSV4_INLINE std::optional<std::int64_t> gguf::integer(std::string_view key) const {
  const auto x = real(key);
  if (!x) return std::nullopt;
  constexpr double most = 9007199254740992.0;  // check: 9007199254740992 == 2**53
  if (!(*x >= -most && *x <= most) || *x != static_cast<double>(static_cast<std::int64_t>(*x)))
    refuse(key, "a whole number");
  return static_cast<std::int64_t>(*x);
}

DSV4_INLINE std::optional<double> gguf::real(std::string_view key) const {
  const gguf_value* v = value(key);
  if (!v) return std::nullopt;
  const auto x = v->is_list ? std::nullopt : detail::real_at(*v, 0);
  if (!x) refuse(key, "one number");
  return *x;
}

DSV4_INLINE std::optional<std::string> gguf::text(std::string_view key) const {
  const gguf_value* v = value(key);
  if (!v) return std::nullopt;
  if (v->is_list || v->kind != gguf_kind::text) refuse(key, "a text");
  constexpr std::size_t length = sizeof(std::uint64_t);
  return std::string(reinterpret_cast<const char*>(v->bytes.data()) + length, v->bytes.size() - length);
}

DSV4_INLINE std::vector<double> gguf::reals(std::string_view key) const {
  const gguf_value* v = value(key);
  if (!v) return {};
  if (v->kind == gguf_kind::text) refuse(key, "numbers");
  std::vector<double> out;
  for (std::uint64_t i = 0; i < v->count; ++i) out.push_back(*detail::real_at(*v, i));
  return out;
}

DSV4_INLINE std::optional<std::span<const std::byte>> gguf::bytes(std::string_view key) const {
  const gguf_value* v = value(key);
  if (!v) return std::nullopt;
  if (!v->is_list || v->kind != gguf_kind::u8) refuse(key, "a list of bytes");
  return v->bytes;
}

}  // namespace dsv4::io
