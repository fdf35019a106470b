// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of python_json.hpp.
#include "python_json.hpp"

namespace dsv4::text {

namespace python {

DSV4_INLINE std::string repr(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v > 0 ? "inf" : "-inf";
  std::array<char, 32> buffer;  // -d.dddddddddddddddde-ddd
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), v, std::chars_format::scientific).ptr;
  const std::string_view all(buffer.data(), usize(end - buffer.data()));
  const std::size_t e = all.find('e');
  int exponent = 0;
  std::from_chars(all.data() + e + (all[e + 1] == '+' ? 2 : 1), end, exponent);

  std::string digits, out;
  for (const char c : all.substr(0, e)) (c == '-' ? out : digits) += c;
  std::erase(digits, '.');
  const int n = static_cast<int>(digits.size());
  constexpr int least_fixed = -4, least_exponent = 16;
  if (exponent < least_fixed || exponent >= least_exponent) {
    out += digits[0];
    if (n > 1) out += '.' + digits.substr(1);
    const std::string size = std::to_string(std::abs(exponent));
    return out + (exponent < 0 ? "e-" : "e+") + (size.size() < 2 ? "0" : "") + size;
  }
  if (exponent < 0) return out + "0." + std::string(usize(-exponent - 1), '0') + digits;
  if (exponent >= n - 1) return out + digits + std::string(usize(exponent - (n - 1)), '0') + ".0";
  return out + digits.insert(usize(exponent) + 1, ".");
}

DSV4_INLINE double to_double(std::string_view number) {
  double v = 0;
  if (std::from_chars(number.data(), number.data() + number.size(), v).ec == std::errc()) return v;
  // Out of range: the power of ten of the first digit that is not 0 says which way.
  const bool negative = number[0] == '-';
  const std::size_t e = std::min(number.find_first_of("eE"), number.size());
  const std::string_view mantissa = number.substr(negative, e - negative);
  const std::size_t point = std::min(mantissa.find('.'), mantissa.size()),
                    first = mantissa.find_first_of("123456789");
  std::int64_t power = 0;
  if (e < number.size()) {
    const std::string_view digits = number.substr(e + (number[e + 1] == '+' ? 2 : 1));
    if (std::from_chars(digits.data(), digits.data() + digits.size(), power).ec != std::errc())
      power = digits[0] == '-' ? std::numeric_limits<std::int32_t>::min()
                               : std::numeric_limits<std::int32_t>::max();
  }
  const bool large =
      first != mantissa.npos && power > static_cast<std::int64_t>(first) - static_cast<std::int64_t>(point);
  const double size = large ? std::numeric_limits<double>::infinity() : 0.0;
  return negative ? -size : size;
}

DSV4_INLINE void dump_string(std::string& out, std::string_view text, bool ascii) {
  const auto escape = [&](char32_t unit) {
    constexpr char hex[] = "0123456789abcdef";
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += hex[unit >> shift & 0xF];
  };
  out += '"';
  for (std::size_t at = 0; at < text.size();) {
    const auto c = static_cast<unsigned char>(text[at]);
    if (ascii && c >= 0x80) {
      const code_point p = decode_wtf8(text, at, surrogates::allowed);
      at += std::max<std::size_t>(p.bytes, 1);
      if (p.value >= 0x10000) {
        escape(0xD800 + ((p.value - 0x10000) >> 10)), escape(0xDC00 + (p.value & 0x3FF));
      } else {
        escape(p.bytes ? p.value : 0xFFFD);
      }
      continue;
    }
    ++at;
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\f': out += "\\f"; break;
      case '\b': out += "\\b"; break;
      default:
        if (c < 0x20 || (ascii && c == 0x7F)) {
          escape(c);
        } else {
          out += static_cast<char>(c);
        }
    }
  }
  out += '"';
}

DSV4_INLINE void dump(std::string& out, const json& value, bool ascii) {
  struct rule {
    std::string& out;
    bool ascii;
    void operator()(std::nullptr_t) const { out += "null"; }
    void operator()(bool v) const { out += v ? "true" : "false"; }
    void operator()(const json::integer& v) const { out += v.digits; }
    void operator()(double v) const {
      if (std::isfinite(v)) {
        out += repr(v);
      } else {
        out += std::isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity";
      }
    }
    void operator()(const std::string& v) const { dump_string(out, v, ascii); }
    void operator()(const json::array& v) const {
      out += '[';
      for (const json& x : v) {
        if (&x != v.data()) out += ", ";
        dump(out, x, ascii);
      }
      out += ']';
    }
    void operator()(const json::object& v) const {
      out += '{';
      for (const json::member& m : v) {
        if (&m != v.data()) out += ", ";
        dump_string(out, m.first, ascii);
        out += ": ";
        dump(out, m.second, ascii);
      }
      out += '}';
    }
  };
  value.visit(rule{out, ascii});
}

DSV4_INLINE std::string dumps(const json& value, bool ascii) {
  std::string out;
  dump(out, value, ascii);
  return out;
}

/// One pass over a text, by recursive descent.
class reader {
 public:
  reader(std::string_view text, surrogates lone) : text_(text), lone_(lone) {}

  json document() {
    json v = value(0);
    skip_space();
    if (at_ < text_.size()) fail("expected the end, found " + found());
    return v;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw json_error(at_, what); }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }
  std::string found() const {
    if (at_ >= text_.size()) return "the end";
    std::string shown;
    dump_string(shown, text_.substr(at_, 1), true);
    return shown;
  }

  json value(int depth) {
    skip_space();
    if (depth == most_depth && (peek() == '[' || peek() == '{'))
      fail("nested deeper than " + std::to_string(most_depth));
    switch (peek()) {
      case '{': return object(depth);
      case '[': return array(depth);
      case '"': return string();
      case 'n':
        if (take("null")) return nullptr;
        break;
      case 't':
        if (take("true")) return true;
        break;
      case 'f':
        if (take("false")) return false;
        break;
      case 'N':
        if (take("NaN")) return std::numeric_limits<double>::quiet_NaN();
        break;
      case 'I':
        if (take("Infinity")) return std::numeric_limits<double>::infinity();
        break;
      default: return number();
    }
    fail("expected a value, found " + found());
  }

  json array(int depth) {
    json::array out;
    ++at_;
    skip_space();
    if (take("]")) return out;
    for (;;) {
      out.push_back(value(depth + 1));
      skip_space();
      if (take("]")) return out;
      if (!take(",")) fail("expected ',' or ']', found " + found());
    }
  }

  json object(int depth) {
    json::object out;
    std::unordered_map<std::string, std::size_t> place;
    ++at_;
    skip_space();
    if (take("}")) return out;
    for (;;) {
      skip_space();
      if (peek() != '"') fail("expected a key in quotes, found " + found());
      std::string name = string();
      skip_space();
      if (!take(":")) fail("expected ':', found " + found());
      json v = value(depth + 1);
      if (const auto [at, fresh] = place.try_emplace(name, out.size()); fresh) {
        out.emplace_back(std::move(name), std::move(v));
      } else {
        out[at->second].second = std::move(v);
      }
      skip_space();
      if (take("}")) return out;
      if (!take(",")) fail("expected ',' or '}', found " + found());
    }
  }

  json number() {
    const std::size_t start = at_;
    const auto digits = [&] {
      const std::size_t from = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      return at_ - from;
    };
    if (take("-Infinity")) return -std::numeric_limits<double>::infinity();
    const bool negative = take("-");
    const bool zero = take("0");  // no digit may follow it
    if (!zero && digits() == 0) {
      at_ = start;
      fail("expected a value, found " + found());
    }
    // A fraction or an exponent without digits is not part of the number.
    const std::size_t whole = at_;
    if (take(".") && digits() == 0) at_ = whole;
    const std::size_t before_exponent = at_;
    if (take("e") || take("E")) {
      if (!take("+")) take("-");
      if (digits() == 0) at_ = before_exponent;
    }
    const std::string_view token = text_.substr(start, at_ - start);
    if (at_ != whole) return to_double(token);
    if (token.size() - negative > most_digits) {
      at_ = start;
      fail("an integer of more than " + std::to_string(most_digits) + " digits");
    }
    return json::integer{zero ? "0" : std::string(token)};
  }

  std::string string() {
    std::string out;
    ++at_;
    for (;;) {
      if (at_ >= text_.size()) fail("a string without its closing quote");
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return out;
      }
      if (c == '\\') {
        escape(out);
      } else if (static_cast<unsigned char>(c) < 0x20) {
        fail("a control character in a string; write it as \\u00XX");
      } else {
        const std::size_t bytes = decode_wtf8(text_, at_, lone_).bytes;
        if (bytes == 0) fail("not UTF-8");
        out += text_.substr(at_, bytes);
        at_ += bytes;
      }
    }
  }

  void escape(std::string& out) {
    static constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    ++at_;
    const char letter = peek();
    if (letter == 'u') {
      char32_t c = unit();
      // Two escapes in a row make one character; a low half that is missing leaves the high one alone.
      const std::size_t after = at_;
      if (is_high_surrogate(c) && take("\\") && peek() == 'u') {
        if (const char32_t low = unit(); is_low_surrogate(low))
          return append_utf8(out, join_surrogates(c, low));
      }
      at_ = after;
      return append_utf8(out, c);
    }
    const std::size_t i = at_ < text_.size() ? letters.find(letter) : letters.npos;
    if (i == letters.npos) fail("no such escape in a string: \\ and " + found());
    out += meanings[i];
    ++at_;
  }

  /// The four hexadecimal digits after the u at which we stand.
  char32_t unit() {
    ++at_;
    std::uint32_t c = 0;
    const std::string_view hex = text_.substr(std::min(at_, text_.size()), 4);
    if (hex.size() < 4 || std::from_chars(hex.data(), hex.data() + 4, c, 16).ptr != hex.data() + 4)
      fail("expected four hexadecimal digits after \\u");
    at_ += 4;
    return c;
  }

  std::string_view text_;
  surrogates lone_;
  std::size_t at_ = 0;
};

DSV4_INLINE json loads(std::string_view text, surrogates lone) { return reader(text, lone).document(); }

DSV4_INLINE std::string shown(const json& value) {
  constexpr std::size_t most = 120;
  std::string out = dumps(value, true);
  if (out.size() > most) out.replace(most, out.npos, "...");
  return out;
}

}  // namespace python

}  // namespace dsv4::text
