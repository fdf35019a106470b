// SPDX-License-Identifier: MIT
#pragma once
/// Python's json.loads and json.dumps, byte for byte: prompts hold what the second one prints.
///
///   dumps   ", " and ": " between; keys in order; \uXXXX only for controls, or for all but printable ASCII (ascii);
///           floats as repr() (0.1, 1e+20, 1e-07, -0.0), NaN, Infinity; integers in full
///   loads   the grammar of RFC 8259 and NaN, Infinity, -Infinity; lone surrogates by \u; the last of equal keys wins
///
/// Refused, as by CPython 3.11: nesting (it stops a little below its recursion limit of 1000; here at `most_depth`),
/// integers of more than `most_digits` digits, and bytes that are not UTF-8.
/// @throws json_error  with the byte at which the text is no JSON
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>

#include "../core/config_macros.hpp"
#include "../core/error.hpp"
#include "json_value.hpp"
#include "wtf8.hpp"

namespace dsv4::text {

/// A text is not JSON.
struct json_error : format_error {
  json_error(std::size_t at, const std::string& what)
      : format_error("JSON, byte " + std::to_string(at) + ": " + what), offset(at) {}
  std::size_t offset;
};

namespace python {

inline constexpr int most_depth = 900;
inline constexpr std::size_t most_digits = 4300;  // sys.int_info.default_max_str_digits

/// repr() of a float: the shortest digits that read back as `v`, with an exponent outside [1e-4, 1e16).
std::string repr(double v);

/// A float of a decimal text: too large gives infinity, too small gives zero, in any locale.
double to_double(std::string_view number);

/// Appends `text` between quotes.  ascii: everything but printable ASCII as \uXXXX, pairs of them above U+FFFF;
/// a byte that is no text as \ufffd.
void dump_string(std::string& out, std::string_view text, bool ascii);

/// Appends json.dumps(value, ensure_ascii=ascii).
void dump(std::string& out, const json& value, bool ascii);

/// json.dumps(value, ensure_ascii=ascii), where ascii is false as the released encoder has it.
std::string dumps(const json& value, bool ascii = false);

/// json.loads(text).  surrogates::allowed: the text is itself a value of JSON and may hold what \u can make.
json loads(std::string_view text, surrogates lone = surrogates::refused);

/// A value in a message: JSON in ASCII, cut short, so that a hostile one can neither flood nor rewrite a terminal.
std::string shown(const json& value);

}  // namespace python
}  // namespace dsv4::text

#if !defined(DSV4_COMPILED)
#include "python_json_impl.hpp"
#endif
