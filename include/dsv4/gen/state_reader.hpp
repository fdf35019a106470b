// SPDX-License-Identifier: MIT
#pragma once
/// Fields and arrays of an uncompressed state or prefix file, none of them trusted: a number has a largest value,
/// an array has the one type and shape that it can have, what the model will read is finite, ids are of the
/// vocabulary, and an array too many is refused like one too few.
/// @throws format_error naming the file, the array or field, what was expected and found
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "../io/safetensors.hpp"
#include "../num/round.hpp"

namespace dsv4::detail {

class state_reader {
 public:
  state_reader(const std::filesystem::path& name, std::span<const std::byte> bytes)
      : file_(io::safetensors::parse(name, bytes)) {}

  [[noreturn]] void fail(const std::string& what) const { io::fail_format(file_.path(), what); }

  // ---- __metadata__

  const std::string& text(const std::string& key) const {
    const auto at = file_.metadata().find(key);
    if (at == file_.metadata().end())
      fail("no " + io::in_quotes(key) + " in __metadata__: not a saved state");
    return at->second;
  }
  std::uint64_t number(const std::string& key,
                       std::uint64_t largest = std::numeric_limits<std::uint64_t>::max()) const {
    const std::string& t = text(key);
    std::uint64_t n = 0;
    const auto [end, fault] = std::from_chars(t.data(), t.data() + t.size(), n);
    if (fault != std::errc() || end != t.data() + t.size() || n > largest)
      fail(key + ": found " + io::in_quotes(t) + ", expected a number of at most " + std::to_string(largest));
    return n;
  }
  index_t position(const std::string& key, index_t largest) const {
    return static_cast<index_t>(number(key, static_cast<std::uint64_t>(largest)));
  }
  void expect(const char* key, const std::string& own, const char* hint) const {
    if (text(key) != own)
      fail(std::string(key) + ": saved with " + io::in_quotes(text(key)) + ", expected " +
           io::in_quotes(own) + "; " + hint);
  }

  // ---- arrays

  /// The first extent of an array of that rank.
  index_t rows(const std::string& name, std::size_t rank) const {
    const io::tensor_info& t = file_.at(name);
    if (t.shape.size() != rank) fail("array " + io::in_quotes(name) + ": shape " + io::shape_text(t.shape));
    return t.shape[0];
  }
  /// The array of that name, which must be of that type and shape.
  const io::tensor_info& array(const std::string& name, dtype type, const std::vector<index_t>& shape) {
    const io::tensor_info& t = file_.at(name);
    if (t.type != type || t.shape != shape)
      fail("array " + io::in_quotes(name) + ": found " + std::string(name_of(t.type)) + " " +
           io::shape_text(t.shape) + ", expected " + std::string(name_of(type)) + " " +
           io::shape_text(shape));
    ++taken_;
    return t;
  }
  /// The values of an array that `array` has let pass; it need not be aligned in the file.
  template <class T>
  void copy(const std::string& name, T* to, index_t n) const {
    if (n == 0) return;
    std::memcpy(to, file_.at(name).data, static_cast<std::size_t>(n) * sizeof(T));
    if constexpr (!std::is_integral_v<T>)
      if (!std::all_of(to, to + n, [](T v) { return std::isfinite(to_double(v)); }))
        fail("array " + io::in_quotes(name) + ": holds NaN or infinity");
  }
  template <class T>
  std::vector<T> values(const std::string& name, index_t n) {
    array(name, dtype_of<T>, {n});
    std::vector<T> v(static_cast<std::size_t>(n));
    copy(name, v.data(), n);
    return v;
  }
  std::vector<std::int32_t> ids(const std::string& name, index_t vocabulary) {
    auto v = values<std::int32_t>(name, rows(name, 1));
    for (const std::int32_t id : v)
      if (id < 0 || id >= vocabulary)
        fail(name + ": " + std::to_string(id) + " is outside the vocabulary of " +
             std::to_string(vocabulary));
    return v;
  }
  /// Refuses the file if it has arrays that nobody asked for.
  void expect_no_more() const {
    if (taken_ != file_.tensors().size())
      fail("holds " + std::to_string(file_.tensors().size()) + " arrays, expected the " +
           std::to_string(taken_) + " of docs/state-file.md");
  }

 private:
  io::safetensors file_;
  std::size_t taken_ = 0;
};

}  // namespace dsv4::detail
