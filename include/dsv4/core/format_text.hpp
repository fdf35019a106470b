// SPDX-License-Identifier: MIT
#pragma once
/// printf into a string, with a decimal point whatever the locale: printf itself writes the comma of a program that
/// calls setlocale, which breaks SVG, CSS and JSON.
///
///   format_text("<circle cx=\"%.1f\" r=\"%d\"/>", 1.25, 3)
///
/// Numbers with a fraction are written by std::to_chars (%f %e %g, with a precision, a width and the flags - and +),
/// everything else by snprintf, one value at a time.  The format is the program's own, never a text from outside.
/// @throws internal_error more or fewer values than the format has
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
#include <type_traits>

#include "error.hpp"

namespace dsv4 {

namespace detail {

/// A number, `spec` being its conversion, "%-8.3g".
inline std::string floating_text(std::string_view spec, double v) {
  const bool left = spec.find('-') != spec.npos, sign = spec.find('+') != spec.npos && !std::signbit(v);
  const std::size_t digits = spec.find_first_not_of("%-+"), point = spec.find('.');
  const auto read = [&](std::size_t from, int otherwise) {
    int n = otherwise;
    if (from < spec.size()) std::from_chars(spec.data() + from, spec.data() + spec.size(), n);
    return n;
  };
  constexpr int as_printf = 6;  // digits that printf writes unless it is told
  const int width = point == digits ? 0 : read(digits, 0),
            precision = point == spec.npos ? as_printf : read(point + 1, 0);
  const auto how = spec.back() == 'f'   ? std::chars_format::fixed
                   : spec.back() == 'e' ? std::chars_format::scientific
                                        : std::chars_format::general;
  constexpr std::size_t longest =
      400;  // check: 400 == 309 + 91; digits of the largest double, and after the point
  std::array<char, longest> text{};
  const auto [end, fault] = std::to_chars(text.data(), text.data() + text.size(), v, how, precision);
  if (fault != std::errc()) throw internal_error("format_text: a number too long for " + std::string(spec));
  std::string out = (sign ? "+" : "") + std::string(text.data(), end);
  if (const auto w = static_cast<std::size_t>(width); out.size() < w)
    out.insert(left ? out.size() : 0, w - out.size(), ' ');
  return out;
}

template <class T>
std::string one_text(const std::string& spec, T value) {
  if constexpr (std::is_floating_point_v<T>) {
    return floating_text(spec, static_cast<double>(value));
  } else {
    const int n = std::snprintf(nullptr, 0, spec.c_str(), value);
    std::string out(static_cast<std::size_t>(n > 0 ? n : 0), '\0');
    std::snprintf(out.data(), out.size() + 1, spec.c_str(), value);
    return out;
  }
}

/// Copies what stands before the next conversion, which it returns; empty at the end.
inline std::string next_conversion(std::string_view& format, std::string& out) {
  while (true) {
    const std::size_t at = format.find('%');
    out += format.substr(0, at);
    if (at == format.npos) {
      format = {};
      return {};
    }
    format.remove_prefix(at);
    if (format.substr(0, 2) != "%%") break;
    out += '%';
    format.remove_prefix(2);
  }
  const std::size_t end = format.find_first_of("diouxXcsfegp");
  if (end == format.npos) throw internal_error("format_text: a conversion does not end");
  std::string spec(format.substr(0, end + 1));
  format.remove_prefix(end + 1);
  return spec;
}

}  // namespace detail

template <class... T>
std::string format_text(std::string_view format, T... values) {
  std::string out;
  [[maybe_unused]] const auto put = [&](auto value) {
    const std::string spec = detail::next_conversion(format, out);
    if (spec.empty()) throw internal_error("format_text: more values than conversions");
    out += detail::one_text(spec, value);
  };
  (put(values), ...);
  if (!detail::next_conversion(format, out).empty())
    throw internal_error("format_text: fewer values than conversions");
  return out;
}

}  // namespace dsv4
