// SPDX-License-Identifier: MIT
#pragma once
/// A JSON value as Python sees it: objects keep the order of their keys, integers have any length, floats may be NaN,
/// strings may hold lone surrogates (wtf8.hpp).  nlohmann::ordered_json can hold none of the last three, and all
/// of them reach the prompt; it stays the reader of configuration files, where they do not matter.
///
///   JSON        here            Python
///   null        nullptr_t       None
///   true        bool            bool
///   12          json::integer   int      decimal digits, no leading zeros, no "-0"
///   1.5, NaN    double          float
///   "text"      std::string     str
///   [..]        json::array     list
///   {..}        json::object    dict     a repeated key: the first one's place, the last one's value
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "../core/error.hpp"

namespace dsv4::text {

class json {
 public:
  struct integer {
    std::string digits;
    bool operator==(const integer&) const = default;
  };
  using array = std::vector<json>;
  using member = std::pair<std::string, json>;
  using object = std::vector<member>;

  json() = default;
  json(std::nullptr_t) {}
  json(bool v) : value_(v) {}
  json(int v) : value_(integer{std::to_string(v)}) {}
  json(double v) : value_(v) {}
  json(integer v) : value_(std::move(v)) {}
  json(std::string v) : value_(std::move(v)) {}
  json(std::string_view v) : value_(std::string(v)) {}
  json(const char* v) : value_(std::string(v)) {}
  json(array v) : value_(std::move(v)) {}
  json(object v) : value_(std::move(v)) {}

  template <class T>
  const T* get_if() const {
    return std::get_if<T>(&value_);
  }
  template <class T>
  bool is() const {
    return std::holds_alternative<T>(value_);
  }
  bool is_null() const { return is<std::nullptr_t>(); }
  const std::string* text() const { return get_if<std::string>(); }

  /// A member of an object; null if there is none, or this is no object.
  inline const json* find(std::string_view name) const;

  template <class F>
  decltype(auto) visit(F&& f) const {
    return std::visit(std::forward<F>(f), value_);
  }

  inline bool operator==(const json& other) const;

 private:
  std::variant<std::nullptr_t, bool, integer, double, std::string, array, object> value_;
};

/// Equal texts give equal values: unlike Python, 1 and 1.0 and true differ, and NaN differs from itself.
inline bool json::operator==(const json& other) const { return value_ == other.value_; }

inline const json* json::find(std::string_view name) const {
  if (const object* o = get_if<object>())
    for (const auto& [key, value] : *o)
      if (key == name) return &value;
  return nullptr;
}

/// Python's bool(value): false for None, False, 0, 0.0, and for what is empty.
inline bool truthy(const json& value) {
  struct rule {
    bool operator()(std::nullptr_t) const { return false; }
    bool operator()(bool v) const { return v; }
    bool operator()(const json::integer& v) const { return v.digits != "0"; }
    bool operator()(double v) const { return v != 0; }
    bool operator()(const std::string& v) const { return !v.empty(); }
    bool operator()(const json::array& v) const { return !v.empty(); }
    bool operator()(const json::object& v) const { return !v.empty(); }
  };
  return value.visit(rule{});
}

/// What a value is, for messages.
inline const char* type_name(const json& value) {
  struct rule {
    const char* operator()(std::nullptr_t) const { return "null"; }
    const char* operator()(bool) const { return "a boolean"; }
    const char* operator()(const json::integer&) const { return "a number"; }
    const char* operator()(double) const { return "a number"; }
    const char* operator()(const std::string&) const { return "a string"; }
    const char* operator()(const json::array&) const { return "a list"; }
    const char* operator()(const json::object&) const { return "an object"; }
  };
  return value.visit(rule{});
}

}  // namespace dsv4::text
