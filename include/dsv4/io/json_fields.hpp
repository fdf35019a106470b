// SPDX-License-Identifier: MIT
#pragma once
/// Typed, range-checked fields of one JSON object.
/// A person who has to mend a file wants to hear everything that is wrong with it at once: with a list of problems,
/// what is wrong is noted there, a harmless value is handed out, and the reader goes on.  Without one the first
/// problem is thrown.
/// @throws format_error a field is missing, of the wrong type or out of range: file, field, expected, found
/// @throws unsupported  a valid value that this library does not implement
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "message.hpp"

namespace dsv4::io::detail {

/// What is wrong with one file.
class problem_list {
 public:
  explicit problem_list(const std::filesystem::path& file) : file_(file) {}

  void bad(std::string what) { all_.push_back(std::move(what)); }
  void not_implemented(std::string what);
  bool empty() const { return all_.empty(); }

  /// One problem as "file: problem", several as a list.  A feature that is not implemented decides the type: without
  /// it the other problems may be none.  @throws unsupported, format_error
  void throw_if_any() const;

 private:
  const std::filesystem::path& file_;
  std::vector<std::string> all_;
  bool is_unsupported_ = false;
};

class json_fields {
 public:
  json_fields(const std::filesystem::path& file, const nlohmann::json& object, std::string prefix = {},
              problem_list* problems = nullptr);

  /// Null and absent are the same.
  const nlohmann::json* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }
  const nlohmann::json& need(std::string_view name) const;

  index_t integer(std::string_view name, index_t low, index_t high) const;
  index_t integer_or(std::string_view name, index_t low, index_t high, index_t absent) const;
  double number(std::string_view name, double low, double high) const;
  double number_or(std::string_view name, double low, double high, double absent) const;
  std::vector<index_t> integers(std::string_view name, index_t low, index_t high) const;
  /// A field that, when present, must have the one value this library implements.
  void only(std::string_view name, const nlohmann::json& implemented) const;

  void bad(std::string what) const;
  void not_implemented(std::string what) const;

  std::string full(std::string_view name) const { return in_quotes(prefix_ + std::string(name)); }
  static std::string shown(const nlohmann::json& v);

 private:
  void missing(std::string_view name) const { bad("field " + full(name) + " is missing"); }

  index_t as_integer(const nlohmann::json& v, const std::string& name, index_t low, index_t high) const;

  const std::filesystem::path& file_;
  const nlohmann::json& object_;
  std::string prefix_;
  problem_list* problems_;
};

}  // namespace dsv4::io::detail

#if !defined(DSV4_COMPILED)
#include "json_fields_impl.hpp"
#endif
