// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of json_fields.hpp.
#include <cmath>
#include <utility>

#include <nlohmann/json.hpp>
#include "json_fields.hpp"

namespace dsv4::io::detail {

DSV4_INLINE void problem_list::not_implemented(std::string what) {
  is_unsupported_ = true;
  bad(std::move(what));
}

DSV4_INLINE void problem_list::throw_if_any() const {
  if (all_.empty()) return;
  std::string text = all_.size() == 1 ? all_[0] : std::to_string(all_.size()) + " problems:";
  if (all_.size() > 1)
    for (const std::string& p : all_) text += "\n  " + p;
  is_unsupported_ ? fail_unsupported(file_, text) : fail_format(file_, text);
}

DSV4_INLINE json_fields::json_fields(const std::filesystem::path& file, const nlohmann::json& object,
                                     std::string prefix, problem_list* problems)
    : file_(file), object_(object), prefix_(std::move(prefix)), problems_(problems) {}

DSV4_INLINE const nlohmann::json* json_fields::find(std::string_view name) const {
  const auto at = object_.find(name);
  return at == object_.end() || at->is_null() ? nullptr : &*at;
}

DSV4_INLINE const nlohmann::json& json_fields::need(std::string_view name) const {
  static const nlohmann::json nothing;
  const nlohmann::json* v = find(name);
  if (!v) missing(name);
  return v ? *v : nothing;
}

DSV4_INLINE index_t json_fields::integer(std::string_view name, index_t low, index_t high) const {
  const nlohmann::json* v = find(name);
  if (!v) missing(name);
  return v ? as_integer(*v, full(name), low, high) : high;
}

DSV4_INLINE index_t json_fields::integer_or(std::string_view name, index_t low, index_t high,
                                            index_t absent) const {
  return has(name) ? integer(name, low, high) : absent;
}

DSV4_INLINE double json_fields::number(std::string_view name, double low, double high) const {
  const nlohmann::json* v = find(name);
  if (!v) missing(name);
  const double x = v && v->is_number() ? v->get<double>() : std::nan("");
  if (v && !(low <= x && x <= high))
    bad("field " + full(name) + ": found " + shown(*v) + ", expected a number from " + shown(low) + " to " +
        shown(high));
  return x;
}

DSV4_INLINE double json_fields::number_or(std::string_view name, double low, double high,
                                          double absent) const {
  return has(name) ? number(name, low, high) : absent;
}

DSV4_INLINE std::vector<index_t> json_fields::integers(std::string_view name, index_t low,
                                                       index_t high) const {
  const nlohmann::json* v = find(name);
  if (!v) missing(name);
  if (v && !v->is_array()) bad("field " + full(name) + ": found " + shown(*v) + ", expected a list");
  std::vector<index_t> out;
  if (v && v->is_array())
    for (const auto& x : *v)
      out.push_back(as_integer(x, full(name) + "[" + std::to_string(out.size()) + "]", low, high));
  return out;
}

DSV4_INLINE void json_fields::only(std::string_view name, const nlohmann::json& implemented) const {
  const nlohmann::json* v = find(name);
  if (v && *v != implemented)
    not_implemented("field " + full(name) + ": found " + shown(*v) + ", only " + shown(implemented) +
                    " is implemented");
}

DSV4_INLINE void json_fields::bad(std::string what) const {
  if (!problems_) fail_format(file_, what);
  problems_->bad(std::move(what));
}

DSV4_INLINE void json_fields::not_implemented(std::string what) const {
  if (!problems_) fail_unsupported(file_, what);
  problems_->not_implemented(std::move(what));
}

DSV4_INLINE std::string json_fields::shown(const nlohmann::json& v) {
  using nlohmann::json;
  const std::string s = v.dump(-1, ' ', true, json::error_handler_t::replace);
  return s.size() <= 80 ? s : s.substr(0, 80) + "...";
}

DSV4_INLINE index_t json_fields::as_integer(const nlohmann::json& v, const std::string& name, index_t low,
                                            index_t high) const {
  const bool fits =
      v.is_number_integer() && !(v.is_number_unsigned() && v.get<std::uint64_t>() > std::uint64_t(high));
  const index_t n = fits ? v.get<index_t>() : 0;
  if (fits && low <= n && n <= high) return n;
  bad("field " + name + ": found " + shown(v) + ", expected an integer from " + std::to_string(low) + " to " +
      std::to_string(high));
  return high;  // the loosest bound for what depends on it
}

}  // namespace dsv4::io::detail
