// SPDX-License-Identifier: MIT
#pragma once
/// The one way by which a JSON text becomes values or events.  (Chat messages have a reader of their own,
/// text/python_json.hpp, because Python's integers and surrogates matter there; it keeps the same rules.)
///
/// The JSON library takes a NUL byte between two tokens for the end of the text and never looks at what follows:
/// a file could say one thing to it and another to every other reader.  NUL is no JSON anywhere, so it is refused
/// first.  Nesting is bounded, so that no recursion over a document can exhaust the stack.
/// @throws not_json with the file and the byte; format_error for nesting, and for numbers beyond double
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "message.hpp"

namespace dsv4::io {

/// A text is no JSON: where, from the start of the text.
struct not_json : format_error {
  not_json(const std::string& what, std::size_t at) : format_error(what), byte(at) {}
  std::size_t byte;
};

struct json_rules {
  int most_depth = 32;
  bool comments = false;  ///< /* */ and //, for files that people write
};

namespace detail {

inline void refuse_nul(const std::filesystem::path& file, std::string_view text) {
  if (const std::size_t at = text.find('\0'); at != text.npos)
    throw not_json(file.string() + ": is not valid JSON: byte " + std::to_string(at) + " is NUL, and " +
                       std::to_string(text.size() - at) + " bytes from there on would not be read",
                   at);
}

}  // namespace detail

/// The document in `text`; `file` is for messages.  each(depth, event, value) sees it grow, as the callback of the
/// JSON library does: false leaves the value out.  @throws not_json, format_error; what `each` throws
template <class Json = nlohmann::json, class Each>
Json parse_json(const std::filesystem::path& file, std::string_view text, const json_rules& rules,
                Each&& each) {
  detail::refuse_nul(file, text);
  const auto bounded = [&](int depth, typename Json::parse_event_t event, Json& value) {
    if (depth > rules.most_depth)
      fail_format(file, "is nested more than " + std::to_string(rules.most_depth) + " levels deep");
    return each(depth, event, value);
  };
  try {
    return Json::parse(text.begin(), text.end(), bounded, true, rules.comments);
  } catch (const typename Json::parse_error& e) {
    const std::size_t at = e.byte ? e.byte - 1 : 0;
    throw not_json(file.string() + ": is not valid JSON, near byte " + std::to_string(at), at);
  } catch (const typename Json::out_of_range&) {
    fail_format(file, "holds a number beyond the range of double");
  }
}
template <class Json = nlohmann::json>
Json parse_json(const std::filesystem::path& file, std::string_view text, const json_rules& rules = {}) {
  return parse_json<Json>(file, text, rules, [](int, typename Json::parse_event_t, Json&) { return true; });
}

/// The same where a text that is no JSON is no error (the last line of a log that was cut off).
template <class Json = nlohmann::json>
std::optional<Json> try_parse_json(std::string_view text, const json_rules& rules = {}) {
  try {
    return parse_json<Json>("", text, rules);
  } catch (const format_error&) {
    return std::nullopt;
  }
}

/// The document as events.  The handler comes as its base: the library's parser is compiled once for each type that it
/// is given, and it is long.  @throws not_json for NUL; what the handler throws for the rest
inline void read_json_events(const std::filesystem::path& file, std::string_view text,
                             nlohmann::json_sax<nlohmann::json>& handler) {
  detail::refuse_nul(file, text);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
}

}  // namespace dsv4::io
