// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of npy.hpp.
#include "npy.hpp"

namespace dsv4::io::detail {

DSV4_INLINE void npy_header::read() {
  bool has_descr = false, has_order = false, has_shape = false;
  expect('{');
  while (!accept('}')) {
    const std::string key = quoted();
    expect(':');
    if (key == "descr" && !std::exchange(has_descr, true)) {
      if (peek() != '\'' && peek() != '"') refuse("a structured dtype", "a plain one, as '<f4'");
      descr = quoted();
    } else if (key == "fortran_order" && !std::exchange(has_order, true)) {
      fortran_order = truth();
    } else if (key == "shape" && !std::exchange(has_shape, true)) {
      sizes();
    } else {
      refuse("the key " + in_quotes(key), "descr, fortran_order and shape, once each");
    }
    if (!accept(',') && peek() != '}') refuse(rest(), "',' or '}'");
  }
  skip();
  if (!left_.empty()) refuse(rest(), "the end of the header");
  if (!has_descr || !has_order || !has_shape)
    refuse("a header without one of them", "descr, fortran_order and shape");
}

DSV4_INLINE void npy_header::skip() {
  while (!left_.empty() && (left_[0] == ' ' || left_[0] == '\n' || left_[0] == '\t')) left_.remove_prefix(1);
}

DSV4_INLINE char npy_header::peek() {
  skip();
  return left_.empty() ? '\0' : left_[0];
}

DSV4_INLINE bool npy_header::accept(char c) {
  if (peek() != c) return false;
  left_.remove_prefix(1);
  return true;
}

DSV4_INLINE std::string npy_header::quoted() {
  const char mark = peek();
  if (mark != '\'' && mark != '"') refuse(rest(), "a text between quotes");
  const std::size_t end = left_.find(mark, 1);
  if (end == left_.npos) refuse("a text without its closing quote", "one");
  const std::string out(left_.substr(1, end - 1));
  left_.remove_prefix(end + 1);
  return out;
}

DSV4_INLINE bool npy_header::truth() {
  skip();
  for (const std::string_view word : {"True", "False"})
    if (left_.starts_with(word)) {
      left_.remove_prefix(word.size());
      return word == "True";
    }
  refuse(rest(), "True or False");
}

DSV4_INLINE void npy_header::sizes() {
  constexpr std::size_t most_axes = 32, most_digits = 18;
  expect('(');
  while (!accept(')')) {
    if (shape.size() == most_axes) refuse("more than " + std::to_string(most_axes) + " axes", "fewer");
    index_t n = 0;
    std::size_t digits = 0;
    for (skip(); !left_.empty() && '0' <= left_[0] && left_[0] <= '9'; left_.remove_prefix(1)) {
      if (++digits > most_digits)
        refuse("a size of more than " + std::to_string(most_digits) + " digits", "less");
      n = 10 * n + (left_[0] - '0');
    }
    if (digits == 0) refuse(rest(), "a size");
    shape.push_back(n);
    if (!accept(',') && peek() != ')') refuse(rest(), "',' or ')'");
  }
}

DSV4_INLINE std::optional<dtype> npy_type(std::string_view descr) {
  using pair = std::pair<std::string_view, dtype>;
  static constexpr pair known[] = {{"<f2", dtype::f16}, {"<f4", dtype::f32},  {"<f8", dtype::f64},
                                   {"<i2", dtype::i16}, {"<i4", dtype::i32},  {"<i8", dtype::i64},
                                   {"<u2", dtype::u16}, {"<u4", dtype::u32},  {"<u8", dtype::u64},
                                   {"|i1", dtype::i8},  {"|u1", dtype::u8},   {"|b1", dtype::boolean},
                                   {"<c8", dtype::c64}, {"<V2", dtype::bf16}, {"|V2", dtype::bf16}};
  for (const auto& [name, type] : known)
    if (name == descr) return type;
  return std::nullopt;
}

DSV4_INLINE npy_array parse_npy(const std::filesystem::path& file, const std::string& who, const std::byte* p,
                                std::size_t size) {
  constexpr std::string_view magic = "\x93NUMPY";
  constexpr std::size_t most_header = 1 << 20;
  if (size < magic.size() + 4 || std::memcmp(p, magic.data(), magic.size()) != 0)
    fail_format(file, who + "does not begin with the 6 bytes of a .npy, \\x93NUMPY");
  const auto major = static_cast<unsigned>(p[magic.size()]);
  if (major < 1 || major > 3)
    fail_format(file, who + "npy version " + std::to_string(major) + ", expected 1, 2 or 3");
  const std::size_t start = magic.size() + 2 + (major == 1 ? 2 : 4);
  if (size < start) fail_format(file, who + "truncated in the npy header");
  const std::size_t length = major == 1 ? little<std::uint16_t>(p + 8) : little<std::uint32_t>(p + 8);
  if (length > size - start || length > most_header)
    fail_format(file, who + "npy header length: found " + std::to_string(length) + ", but " +
                          std::to_string(size - start) + " bytes follow (truncated?)");
  npy_header h(file, who, {reinterpret_cast<const char*>(p) + start, length});
  h.read();
  const auto type = npy_type(h.descr);
  if (!type)
    fail_unsupported(file,
                     who + "npy type " + in_quotes(h.descr) +
                         "; read are <f2 <f4 <f8 <i2 <i4 <i8 |i1 <u2 <u4 <u8 |u1 |b1 <c8 and <V2 (bf16)");
  const index_t each = bits_of(*type) / 8;
  const auto elements = checked_elements(h.shape, *type);
  if (!elements) fail_format(file, who + "shape " + shape_text(h.shape) + " overflows");
  npy_array a;
  a.type = *type;
  a.shape = std::move(h.shape);
  a.fortran_order = h.fortran_order;
  a.elements = *elements;
  a.bytes = usize(*elements * each);
  a.data = p + start + length;
  if (const std::size_t found = size - start - length; found != a.bytes)
    fail_format(file, who + "holds " + std::to_string(found) + " bytes of data, expected " +
                          std::to_string(a.bytes) + " for " + h.descr + " " + shape_text(a.shape));
  return a;
}

DSV4_INLINE std::uint32_t crc32(const std::byte* p, std::size_t size) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> t{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = t[i] >> 1 ^ (t[i] & 1 ? 0xEDB88320u : 0);
    }
    return t;
  }();
  std::uint32_t c = ~0u;
  for (std::size_t i = 0; i < size; ++i) c = table[(c ^ static_cast<std::uint8_t>(p[i])) & 0xFF] ^ c >> 8;
  return ~c;
}

DSV4_INLINE std::vector<npy_array> npz_directory::read() {
  constexpr std::size_t entry_record = 46;
  const std::size_t end = find_end();
  std::uint64_t count = little<std::uint16_t>(p_ + end + 10), at = little<std::uint32_t>(p_ + end + 16);
  if (count == 0xFFFF || at == 0xFFFFFFFF)
    fail_unsupported(file_, "an npz of 65535 members or 4 GiB and more (zip64 directory)");
  if (at > end)
    fail_format(file_, "the zip directory is said to begin at " + std::to_string(at) + ", behind its end");
  std::vector<npy_array> out;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (end - at < entry_record || little<std::uint32_t>(p_ + at) != 0x02014b50)
      fail_format(file_, "entry " + std::to_string(i) + " of the zip directory is not one (truncated?)");
    const std::byte* e = p_ + at;
    const std::size_t name = little<std::uint16_t>(e + 28), extra = little<std::uint16_t>(e + 30),
                      comment = little<std::uint16_t>(e + 32);
    if (end - at - entry_record < name + extra + comment)
      fail_format(file_, "entry " + std::to_string(i) + " of the zip directory leaves it");
    out.push_back(
        member(e, {reinterpret_cast<const char*>(e) + entry_record, name}, {e + entry_record + name, extra}));
    at += entry_record + name + extra + comment;
  }
  return out;
}

DSV4_INLINE std::size_t npz_directory::find_end() const {
  constexpr std::size_t record = 22, longest_comment = 0xFFFF;
  for (std::size_t back = record; back <= size_ && back <= record + longest_comment; ++back)
    if (little<std::uint32_t>(p_ + size_ - back) == 0x06054b50 &&
        little<std::uint16_t>(p_ + size_ - 2 - (back - record)) == back - record)
      return size_ - back;
  fail_format(file_, "is not a zip archive (no end record; truncated?)");
}

DSV4_INLINE npy_array npz_directory::member(const std::byte* e, std::string_view name, bytes extra) const {
  const std::string who = "member " + in_quotes(name) + ": ";
  const unsigned flags = little<std::uint16_t>(e + 8), method = little<std::uint16_t>(e + 10);
  if (flags & 1) fail_unsupported(file_, who + "is encrypted");
  if (method != 0)
    fail_unsupported(file_, who + "is compressed (zip method " + std::to_string(method) +
                                "); write with numpy.savez, not savez_compressed");
  std::uint64_t packed = little<std::uint32_t>(e + 20), whole = little<std::uint32_t>(e + 24),
                at = little<std::uint32_t>(e + 42);
  // zip64: fields that do not fit are in the extra field 1, in this order.
  for (std::size_t x = 0; x + 4 <= extra.n;) {
    const std::size_t id = little<std::uint16_t>(extra.p + x), n = little<std::uint16_t>(extra.p + x + 2);
    if (n > extra.n - x - 4) fail_format(file_, who + "an extra field leaves its entry");
    std::size_t field = x + 4;
    if (id == 1)
      for (std::uint64_t* v : {&whole, &packed, &at})
        if (*v == 0xFFFFFFFF && field + 8 <= x + 4 + n)
          *v = little<std::uint64_t>(extra.p + field), field += 8;
    x += 4 + n;
  }
  if (packed != whole) fail_format(file_, who + "is stored, but its two sizes differ");
  constexpr std::size_t local_record = 30;
  if (at > size_ || size_ - at < local_record || little<std::uint32_t>(p_ + at) != 0x04034b50)
    fail_format(file_, who + "is said to begin at " + std::to_string(at) + ", where there is no member");
  const std::uint64_t skip =
      local_record + std::uint64_t{little<std::uint16_t>(p_ + at + 26)} + little<std::uint16_t>(p_ + at + 28);
  if (skip > size_ - at || whole > size_ - at - skip)
    fail_format(file_, who + "of " + std::to_string(whole) + " bytes at " + std::to_string(at) +
                           " ends beyond the file");
  const std::byte* data = p_ + at + skip;
  if (crc32(data, whole) != little<std::uint32_t>(e + 16))
    fail_format(file_, who + "CRC-32 is not that of the directory (damaged)");
  npy_array a = parse_npy(file_, who, data, whole);
  a.name = name.ends_with(".npy") ? name.substr(0, name.size() - 4) : name;
  return a;
}

}  // namespace dsv4::io::detail

namespace dsv4::io {

DSV4_INLINE npy npy::open(const std::filesystem::path& path) {
  npy f;
  f.map_ = mapped_file(path);
  f.arrays_ = parse(f.map_.path(), {f.map_.data(), f.map_.size()}, path.extension() == ".npz");
  return f;
}

DSV4_INLINE std::vector<npy_array> npy::parse(const std::filesystem::path& name,
                                              std::span<const std::byte> bytes, bool zip) {
  if (zip) return detail::npz_directory(name, bytes.data(), bytes.size()).read();
  return {detail::parse_npy(name, "", bytes.data(), bytes.size())};
}

}  // namespace dsv4::io
