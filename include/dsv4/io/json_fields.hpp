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

#include <nlohmann/json.hpp>

#include "message.hpp"

namespace dsv4::io::detail {

/// What is wrong with one file.
class problem_list {
 public:
  explicit problem_list(const std::filesystem::path& file) : file_(file) {}

  void bad(std::string what) { all_.push_back(std::move(what)); }
  void not_implemented(std::string what) {
    is_unsupported_ = true;
    bad(std::move(what));
  }
  bool empty() const { return all_.empty(); }

  /// One problem as "file: problem", several as a list.  A feature that is not implemented decides the type: without
  /// it the other problems may be none.  @throws unsupported, format_error
  void throw_if_any() const {
    if (all_.empty()) return;
    std::string text = all_.size() == 1 ? all_[0] : std::to_string(all_.size()) + " problems:";
    if (all_.size() > 1)
      for (const std::string& p : all_) text += "\n  " + p;
    is_unsupported_ ? fail_unsupported(file_, text) : fail_format(file_, text);
  }

 private:
  const std::filesystem::path& file_;
  std::vector<std::string> all_;
  bool is_unsupported_ = false;
};

class json_fields {
 public:
  json_fields(const std::filesystem::path& file, const nlohmann::json& object, std::string prefix = {},
              problem_list* problems = nullptr)
      : file_(file), object_(object), prefix_(std::move(prefix)), problems_(problems) {}

  /// Null and absent are the same.
  const nlohmann::json* find(std::string_view name) const {
    const auto at = object_.find(name);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  const nlohmann::json& need(std::string_view name) const {
    static const nlohmann::json nothing;
    const nlohmann::json* v = find(name);
    if (!v) missing(name);
    return v ? *v : nothing;
  }

  index_t integer(std::string_view name, index_t low, index_t high) const {
    const nlohmann::json* v = find(name);
    if (!v) missing(name);
    return v ? as_integer(*v, full(name), low, high) : high;
  }
  index_t integer_or(std::string_view name, index_t low, index_t high, index_t absent) const {
    return has(name) ? integer(name, low, high) : absent;
  }
  double number(std::string_view name, double low, double high) const {
    const nlohmann::json* v = find(name);
    if (!v) missing(name);
    const double x = v && v->is_number() ? v->get<double>() : std::nan("");
    if (v && !(low <= x && x <= high))
      bad("field " + full(name) + ": found " + shown(*v) + ", expected a number from " + shown(low) + " to " +
          shown(high));
    return x;
  }
  double number_or(std::string_view name, double low, double high, double absent) const {
    return has(name) ? number(name, low, high) : absent;
  }
  std::vector<index_t> integers(std::string_view name, index_t low, index_t high) const {
    const nlohmann::json* v = find(name);
    if (!v) missing(name);
    if (v && !v->is_array()) bad("field " + full(name) + ": found " + shown(*v) + ", expected a list");
    std::vector<index_t> out;
    if (v && v->is_array())
      for (const auto& x : *v)
        out.push_back(as_integer(x, full(name) + "[" + std::to_string(out.size()) + "]", low, high));
    return out;
  }
  /// A field that, when present, must have the one value this library implements.
  void only(std::string_view name, const nlohmann::json& implemented) const {
    const nlohmann::json* v = find(name);
    if (v && *v != implemented)
      not_implemented("field " + full(name) + ": found " + shown(*v) + ", only " + shown(implemented) +
                      " is implemented");
  }

  void bad(std::string what) const {
    if (!problems_) fail_format(file_, what);
    problems_->bad(std::move(what));
  }
  void not_implemented(std::string what) const {
    if (!problems_) fail_unsupported(file_, what);
    problems_->not_implemented(std::move(what));
  }

  std::string full(std::string_view name) const { return in_quotes(prefix_ + std::string(name)); }
  static std::string shown(const nlohmann::json& v) {
    using nlohmann::json;
    const std::string s = v.dump(-1, ' ', true, json::error_handler_t::replace);
    return s.size() <= 80 ? s : s.substr(0, 80) + "...";
  }

 private:
  void missing(std::string_view name) const { bad("field " + full(name) + " is missing"); }

  index_t as_integer(const nlohmann::json& v, const std::string& name, index_t low, index_t high) const {
    const bool fits =
        v.is_number_integer() && !(v.is_number_unsigned() && v.get<std::uint64_t>() > std::uint64_t(high));
    const index_t n = fits ? v.get<index_t>() : 0;
    if (fits && low <= n && n <= high) return n;
    bad("field " + name + ": found " + shown(v) + ", expected an integer from " + std::to_string(low) +
        " to " + std::to_string(high));
    return high;  // the loosest bound for what depends on it
  }

  const std::filesystem::path& file_;
  const nlohmann::json& object_;
  std::string prefix_;
  problem_list* problems_;
};

}  // namespace dsv4::io::detail
