// SPDX-License-Identifier: MIT
#pragma once
/// Settings as JSON, every field named once: the same list reads a file (and refuses what it does not know, with the
/// nearest name that it does know) and writes one.
///
///   void fields(auto& f, my_settings& s) { f("steps", s.steps, 1, 1e9); f.group("data", [&](auto& g) { g("length", s.length, 2, 1e6); }); }
///
/// @throws format_error file, field, expected, found
#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "../io/config_json.hpp"
#include "../io/json_fields.hpp"
#include "../io/message.hpp"

namespace dsv4::trainer {

/// A place in a run: a step, or a part of all steps.
///   200 in JSON: step 200.   0.8: four fifths of the run (a number with a point, 0.0 to 1.0).   null: never
struct moment {
  double value = 0;
  bool part = false, never = false;

  static moment step(index_t n) { return {static_cast<double>(n), false, false}; }
  static moment share(double x) { return {x, true, false}; }
  static moment none() { return {0, false, true}; }
  /// The first step (from 0) for which it has come.
  index_t of(index_t steps) const {
    constexpr index_t beyond = index_t{1} << 60;
    if (never) return beyond;
    return part ? static_cast<index_t>(value * static_cast<double>(steps) + 0.5)
                : static_cast<index_t>(value);
  }
};

/// Letters to insert, remove or change to make b of a.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t corner = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = corner + (a[i - 1] != b[j - 1]);
      corner = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

class settings_reader {
 public:
  settings_reader(const std::filesystem::path& file, const nlohmann::json& object, std::string prefix = {})
      : file_(file), object_(object), prefix_(std::move(prefix)), fields_(file_, object_, prefix_) {
    if (!object.is_object())
      io::fail_format(file, "field " + io::in_quotes(prefix_) + ": expected an object of settings");
  }

  void operator()(const char* name, index_t& to, double low, double high) {
    if (known(name)) to = fields_.integer(name, static_cast<index_t>(low), static_cast<index_t>(high));
  }
  void operator()(const char* name, double& to, double low, double high) {
    if (known(name)) to = fields_.number(name, low, high);
  }
  void operator()(const char* name, std::uint64_t& to) {
    if (known(name)) to = static_cast<std::uint64_t>(fields_.integer(name, 0, index_t{1} << 53));
  }
  void operator()(const char* name, bool& to) {
    if (!known(name)) return;
    if (!object_[name].is_boolean()) wrong(name, "true or false");
    to = object_[name].get<bool>();
  }
  void operator()(const char* name, std::string& to) {
    if (!known(name)) return;
    if (!object_[name].is_string()) wrong(name, "a text");
    to = object_[name].get<std::string>();
  }
  void operator()(const char* name, moment& to) {
    names_.emplace_back(name);
    if (!object_.contains(name)) return;
    const nlohmann::json& v = object_[name];
    const std::string wanted =
        "a step (an integer), a part of the run (0.0 to 1.0, with a point) or null, never";
    if (v.is_null())
      to = moment::none();
    else if (v.is_number_integer() && v.get<double>() >= 0)
      to = moment::step(fields_.integer(name, 0, index_t{1} << 53));
    else if (v.is_number_float() && v.get<double>() >= 0 && v.get<double>() <= 1)
      to = moment::share(v.get<double>());
    else
      wrong(name, wanted);
  }
  /// One of several words.
  template <class Choice>
    requires std::is_enum_v<Choice>
  void operator()(const char* name, Choice& to,
                  const std::vector<std::pair<std::string_view, Choice>>& words) {
    if (!known(name)) return;
    std::string all;
    for (const auto& [word, value] : words) {
      if (object_[name] == word) return void(to = value);
      all += (all.empty() ? "" : ", ") + std::string(word);
    }
    wrong(name, "one of " + all);
  }
  /// Taken as it is: a whole JSON value that somebody else reads.
  void json(const char* name, nlohmann::json& to) {
    if (known(name)) to = object_[name];
  }
  template <class F>
  void group(const char* name, F each) {
    if (!known(name)) return;
    settings_reader inner(file_, object_[name], prefix_ + name + ".");
    each(inner);
    inner.refuse_unknown();
  }

  /// At the end: names that no field asked for.
  void refuse_unknown() const {
    for (const auto& [name, value] : object_.items()) {
      if (std::find(names_.begin(), names_.end(), name) != names_.end()) continue;
      const auto near = std::min_element(names_.begin(), names_.end(),
                                         [&, &key = name](const std::string& a, const std::string& b) {
                                           return edit_distance(a, key) < edit_distance(b, key);
                                         });
      io::fail_format(
          file_, "field " + io::in_quotes(prefix_ + name) + " is not known" +
                     (near == names_.end() ? "" : "; the nearest name is " + io::in_quotes(prefix_ + *near)));
    }
  }

 private:
  bool known(const char* name) {
    names_.emplace_back(name);
    return fields_.has(name);
  }
  [[noreturn]] void wrong(const char* name, const std::string& wanted) const {
    io::fail_format(file_, "field " + fields_.full(name) + ": found " +
                               io::detail::json_fields::shown(object_[name]) + ", expected " + wanted);
  }

  const std::filesystem::path& file_;
  const nlohmann::json& object_;
  std::string prefix_;
  io::detail::json_fields fields_;
  std::vector<std::string> names_;
};

class settings_writer {
 public:
  nlohmann::ordered_json out = nlohmann::ordered_json::object();

  template <class T, class... Range>
  void operator()(const char* name, const T& v, Range...) {
    out[name] = v;
  }
  void operator()(const char* name, const moment& v) {
    out[name] = v.never  ? nlohmann::ordered_json()
                : v.part ? nlohmann::ordered_json(v.value)
                         : nlohmann::ordered_json(static_cast<index_t>(v.value));
  }
  template <class Choice>
    requires std::is_enum_v<Choice>
  void operator()(const char* name, const Choice& v,
                  const std::vector<std::pair<std::string_view, Choice>>& words) {
    for (const auto& [word, value] : words)
      if (value == v) out[name] = word;
  }
  void json(const char* name, const nlohmann::json& v) { out[name] = v; }
  template <class F>
  void group(const char* name, F each) {
    settings_writer inner;
    each(inner);
    out[name] = std::move(inner.out);
  }
};

}  // namespace dsv4::trainer
