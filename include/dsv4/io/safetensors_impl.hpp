// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of safetensors.hpp.
#include <algorithm>
#include <cstring>
#include <utility>

#include <nlohmann/json.hpp>
#include "json_text.hpp"
#include "safetensors.hpp"

namespace dsv4::io::detail {

/// One entry of a file's header, as it stands there.
struct header_entry {
  std::string name, type;
  std::vector<index_t> shape;
  std::vector<std::uint64_t> offsets;
  bool has_type = false, has_shape = false, has_offsets = false;
};

/// Reads the header event by event: no document is built, and a repeated name is seen.
class safetensors_header final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit safetensors_header(const std::filesystem::path& file) : file_(file) {}

  std::vector<header_entry> entries;
  std::map<std::string, std::string> metadata;

  // file: { name: tensor, ... }   tensor: { dtype: "..", shape: [..], data_offsets: [..] }
  bool start_object(std::size_t) override {
    if (++depth_ == 1) return true;
    if (depth_ == 2 && !in_array_) return true;
    return refuse("an unexpected object");
  }
  bool end_object() override {
    if (depth_-- == 2) in_metadata_ = false;
    return true;
  }
  bool key(std::string& k) override {
    if (depth_ == 1) {
      in_metadata_ = k == "__metadata__";
      if (in_metadata_ && std::exchange(has_metadata_, true))
        fail_format(file_, "header: '__metadata__' twice");
      if (!in_metadata_) entries.emplace_back().name = k;
    }
    field_ = k;
    if (depth_ != 2 || in_metadata_) return true;
    header_entry& e = entries.back();
    bool* seen = k == "dtype"          ? &e.has_type
                 : k == "shape"        ? &e.has_shape
                 : k == "data_offsets" ? &e.has_offsets
                                       : nullptr;
    if (!seen) return refuse("the unknown field " + in_quotes(k));
    if (std::exchange(*seen, true)) return refuse("the field " + in_quotes(k) + " twice");
    return true;
  }
  bool string(std::string& s) override {
    if (depth_ != 2 || in_array_) return refuse("an unexpected string");
    if (in_metadata_) {
      metadata[field_] = s;
      return true;
    }
    if (field_ != "dtype") return refuse("a string for " + in_quotes(field_));
    entries.back().type = s;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || in_array_ || field_ == "dtype") return refuse("an unexpected array");
    return in_array_ = true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool number_unsigned(number_unsigned_t n) override {
    if (!in_array_) return refuse("an unexpected number");
    header_entry& e = entries.back();
    constexpr std::size_t most_axes = 32;
    if (field_ == "data_offsets") {
      if (e.offsets.size() == 2) return refuse("more than two data_offsets");
      e.offsets.push_back(n);
    } else {
      if (n > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max()))
        return refuse("a size of " + std::to_string(n) + " in its shape, which overflows");
      if (e.shape.size() == most_axes) return refuse("more than " + std::to_string(most_axes) + " axes");
      e.shape.push_back(static_cast<index_t>(n));
    }
    return true;
  }
  bool number_integer(number_integer_t n) override {
    return refuse("the negative number " + std::to_string(n) + " in " + in_quotes(field_));
  }
  bool number_float(number_float_t, const std::string& s) override {
    return refuse("the number " + in_quotes(s) + " in " + in_quotes(field_) +
                  ", expected an integer of 64 bits");
  }
  /// The format's own reader takes a null for metadata that is not there.
  bool null() override { return depth_ == 1 && in_metadata_ ? true : refuse("an unexpected null"); }
  bool boolean(bool) override { return refuse("an unexpected boolean"); }
  bool binary(binary_t&) override { return refuse("unexpected binary data"); }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception&) override {
    fail_format(file_, "header is not valid JSON, at offset " + std::to_string(8 + (at ? at - 1 : 0)));
  }

 private:
  bool refuse(const std::string& found) const {
    if (depth_ == 0) fail_format(file_, "header: found " + found + ", expected an object");
    if (in_metadata_)
      fail_format(file_, "header: found " + found + " in '__metadata__', expected strings only");
    fail_format(file_, "tensor " + in_quotes(entries.empty() ? "" : entries.back().name) + ": found " +
                           found + "; expected dtype, shape and data_offsets");
  }

  const std::filesystem::path& file_;
  std::string field_;
  int depth_ = 0;
  bool in_metadata_ = false, has_metadata_ = false, in_array_ = false;
};

}  // namespace dsv4::io::detail

namespace dsv4::io {

DSV4_INLINE bool tensor_info::aligned() const {
  const auto each = usize(std::max<index_t>(bits_of(type) / 8, 1));
  return reinterpret_cast<std::uintptr_t>(data) % each == 0;
}

DSV4_INLINE std::optional<dtype> safetensors_type(std::string_view name) {
  for (dtype t : safetensors_types)
    if (name_of(t) == name) return t;
  return std::nullopt;
}

}  // namespace dsv4::io

namespace dsv4::io::detail {

DSV4_INLINE std::optional<index_t> checked_elements(const std::vector<index_t>& shape, dtype type) {
  index_t n = 1, largest = std::numeric_limits<index_t>::max() / bits_of(type);
  for (index_t s : shape) {
    if (s < 0 || (s > 0 && n > largest / s)) return std::nullopt;
    n *= s;
  }
  return n;
}

}  // namespace dsv4::io::detail

namespace dsv4::io {

DSV4_INLINE safetensors safetensors::open(const std::filesystem::path& path,
                                          const safetensors_options& options) {
  safetensors f;
  f.path_ = path;
  if (path.extension() == ".zst") {
    f.memory_ = read_zstd(path, options.max_decompressed);
    f.read(f.memory_.data(), f.memory_.size, options);
  } else {
    f.map_ = mapped_file(path);
    f.read(f.map_.data(), f.map_.size(), options);
  }
  return f;
}

DSV4_INLINE safetensors safetensors::parse(const std::filesystem::path& name,
                                           std::span<const std::byte> bytes,
                                           const safetensors_options& options) {
  safetensors f;
  f.path_ = name;
  f.read(bytes.data(), bytes.size(), options);
  return f;
}

DSV4_INLINE safetensors safetensors::own(const std::filesystem::path& name, owned_bytes bytes) {
  safetensors f;
  f.path_ = name;
  f.memory_ = std::move(bytes);
  f.read(f.memory_.data(), f.memory_.size, {});
  return f;
}

DSV4_INLINE const tensor_info* safetensors::find(std::string_view name) const& {
  const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                   [](const tensor_info& t, std::string_view n) { return t.name < n; });
  return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

DSV4_INLINE const tensor_info& safetensors::at(std::string_view name) const& {
  const tensor_info* t = find(name);
  if (!t)
    fail_format(path_,
                "no tensor " + in_quotes(name) + " (the file holds " + std::to_string(tensors_.size()) + ")");
  return *t;
}

DSV4_INLINE void safetensors::read(const std::byte* file, std::size_t size,
                                   const safetensors_options& options) {
  // Header length.
  constexpr std::size_t prefix = 8;
  if (size < prefix)
    fail_format(
        path_, "truncated: " + std::to_string(size) + " bytes, expected at least the 8 of the header length");
  std::uint64_t length;
  std::memcpy(&length, file, prefix);
  if (length > max_header)
    fail_format(path_, "header length at offset 0: found " + std::to_string(length) + ", expected at most " +
                           std::to_string(max_header));
  if (length > size - prefix)
    fail_format(path_, "header length at offset 0: found " + std::to_string(length) + ", but only " +
                           std::to_string(size - prefix) + " bytes follow (truncated?)");
  // Header.
  const std::string_view text(reinterpret_cast<const char*>(file) + prefix, usize(length));
  detail::safetensors_header header(path_);
  read_json_events(path_.string() + ", header", text, header);
  metadata_ = std::move(header.metadata);
  const std::size_t begin = prefix + usize(length);
  tensors_.reserve(header.entries.size());
  for (auto& e : header.entries) tensors_.push_back(checked(e, file, begin, size, options));
  check_coverage(begin, size);
  std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < tensors_.size(); ++i)
    if (tensors_[i].name == tensors_[i - 1].name)
      fail_format(path_, "tensor " + in_quotes(tensors_[i].name) + " appears twice");
}

DSV4_INLINE tensor_info safetensors::checked(detail::header_entry& e, const std::byte* file,
                                             std::size_t begin, std::size_t size,
                                             const safetensors_options& options) const {
  const std::string who = "tensor " + in_quotes(e.name) + ": ";
  if (!e.has_type || e.type.empty()) fail_format(path_, who + "no dtype");
  if (!e.has_shape) fail_format(path_, who + "no shape");
  if (e.offsets.size() != 2)
    fail_format(path_, who + "found " + std::to_string(e.offsets.size()) + " data_offsets, expected 2");
  const std::optional<dtype> type = safetensors_type(e.type);
  if (!type) {
    std::string known;
    for (dtype t : safetensors_types) known += (known.empty() ? "" : ", ") + std::string(name_of(t));
    fail_format(path_, who + "unknown dtype " + in_quotes(e.type) + ", expected one of " + known);
  }
  const std::optional<index_t> elements = detail::checked_elements(e.shape, *type);
  if (!elements) fail_format(path_, who + "shape " + shape_text(e.shape) + " overflows");
  const index_t bits = *elements * bits_of(*type);
  if (bits % 8 != 0) fail_format(path_, who + e.type + " " + shape_text(e.shape) + " does not end at a byte");

  const std::uint64_t from = e.offsets[0], to = e.offsets[1], data_size = size - begin;
  const std::string range = "data_offsets [" + std::to_string(from) + ", " + std::to_string(to) + "]";
  if (from > to) fail_format(path_, who + range + " are out of order");
  if (to > data_size)
    fail_format(path_, who + range + " end beyond the file, which has " + std::to_string(data_size) +
                           " bytes of data (truncated?)");
  const auto each = static_cast<std::uint64_t>(std::max<index_t>(bits_of(*type) / 8, 1)),
             wanted = static_cast<std::uint64_t>(bits / 8);
  if (to - from != wanted) {
    const bool whole = (to - from) % each == 0;
    fail_format(path_, who + range + (whole ? "" : " are misaligned:") + " hold " +
                           std::to_string(to - from) + " bytes, expected " + std::to_string(wanted) +
                           " for " + e.type + " " + shape_text(e.shape));
  }
  tensor_info t;
  t.name = std::move(e.name);
  t.type = *type;
  t.shape = std::move(e.shape);
  t.elements = *elements;
  t.bytes = usize(wanted);
  t.offset = begin + usize(from);
  t.data = file + t.offset;
  if (options.alignment == alignment_rule::required && !t.aligned())
    fail_format(path_, who + "misaligned: it begins at offset " + std::to_string(t.offset) +
                           " of the file, expected a multiple of " + std::to_string(each) + " for " +
                           std::string(name_of(t.type)));
  return t;
}

DSV4_INLINE void safetensors::check_coverage(std::size_t begin, std::size_t size) const {
  std::vector<const tensor_info*> order;
  order.reserve(tensors_.size());
  for (const tensor_info& t : tensors_) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const tensor_info* a, const tensor_info* b) {
    return std::pair(a->offset, a->bytes) < std::pair(b->offset, b->bytes);
  });
  std::size_t at = begin;
  std::string before = "the header";
  for (const tensor_info* t : order) {
    if (t->offset != at)
      fail_format(path_, "tensor " + in_quotes(t->name) + ": begins at offset " + std::to_string(t->offset) +
                             " of the file, expected " + std::to_string(at) +
                             (t->offset < at ? " (overlaps " : " (leaves a hole after ") + before + ")");
    at = t->offset + t->bytes;
    if (t->bytes) before = in_quotes(t->name);
  }
  if (at != size)
    fail_format(
        path_, std::to_string(size - at) + " bytes at offset " + std::to_string(at) + " belong to no tensor");
}

}  // namespace dsv4::io
