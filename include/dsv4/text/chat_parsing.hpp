// SPDX-License-Identifier: MIT
#pragma once
/// What a model wrote, back to a message: the inverse of the assistant's part of chat_encoding.hpp.
///
///   completion = [reasoning </think>]   only in thinking mode, where the prompt ended in <think>
///                content (<｜end▁of▁sentence｜> | \n\n calls [<｜end▁of▁sentence｜>])
///
/// Strict, as the released parser is: nothing may follow, tags stand where the encoder puts them, and special tokens
/// inside reasoning or content are refused.  Also lenient where it is: after a block of calls the end token
/// may be missing, a text that breaks off after the first tag or after a complete parameter or call counts as complete, and
/// a string="false" value is passed on unread, so that `arguments` of a message may be no JSON.
/// The time is linear in the length.
///
/// oracle    the released parser: reference_tests/data/encoding
/// deviates  nothing
/// @throws refused  byte, what was expected, what was found; kind AssertionError or ValueError
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "chat_message.hpp"
#include "prompt.hpp"
#include "python_json.hpp"
#include "unicode.hpp"

namespace dsv4::text {

namespace detail {

/// Python's \s: white space of Unicode, and the separators 1C to 1F.
inline bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

class completion_parser {
 public:
  explicit completion_parser(std::string_view text) : text_(text) {}

  chat_message message(thinking_mode mode) {
    chat_message m{"assistant"};
    if (mode == thinking_mode::thinking) {
      m.reasoning_content = read_until({end_think_token, calls_begin});
      if (stop_ != end_think_token)
        refuse("AssertionError", "thinking mode, but no </think> ends the reasoning");
    }
    m.content = read_until({eos_token, calls_begin});
    if (stop_ == calls_begin) {
      m.tool_calls = calls();
      if (!read_until({eos_token}).empty()) refuse("AssertionError", "text after the tool calls");
    } else if (stop_.empty()) {
      refuse("AssertionError", "no end-of-sentence token");
    }
    if (at_ < text_.size()) refuse("AssertionError", "text after the end-of-sentence token");
    for (const std::string_view token : {bos_token, eos_token, think_token, end_think_token, dsml_token})
      for (const std::string* part : {&m.content, &m.reasoning_content})
        if (part->find(token) != std::string::npos)
          throw refused("AssertionError", "completion: special token " + std::string(token) + " inside the " +
                                              (part == &m.content ? "content" : "reasoning"));
    return m;
  }

 private:
  static constexpr std::string_view calls_begin = "\n\n<｜DSML｜tool_calls",
                                    calls_end = "</｜DSML｜tool_calls>";
  static constexpr std::string_view invoke_begin = "<｜DSML｜invoke", invoke_end = "</｜DSML｜invoke";
  static constexpr std::string_view parameter_begin = "<｜DSML｜parameter",
                                    parameter_end = "/｜DSML｜parameter";

  [[noreturn]] void refuse(const char* kind, const std::string& what) const {
    throw refused(kind, "completion, byte " + std::to_string(at_) + ": " + what);
  }
  [[noreturn]] void expected(const std::string& what, std::string_view found) const {
    refuse("ValueError", "before here expected " + what + ", found " + python::shown(json(found)));
  }

  /// The text up to the first of `stops`, and past it; all the rest if there is none.  `stop_` tells which.
  std::string_view read_until(std::initializer_list<std::string_view> stops) {
    const std::size_t from = at_;
    for (; at_ < text_.size(); ++at_) {
      for (const std::string_view s : stops) {
        if (!text_.substr(at_).starts_with(s)) continue;
        const std::string_view before = text_.substr(from, at_ - from);
        at_ += s.size();
        stop_ = s;
        return before;
      }
    }
    stop_ = {};
    return text_.substr(from);
  }

  /// What must stand between the end of one tag and the next.
  void expect_line_end(std::string_view found) const {
    if (found != ">\n") expected("\">\\n\" and a tag", found);
  }

  std::vector<tool_call> calls() {
    std::vector<tool_call> out;
    while (at_ < text_.size()) {
      expect_line_end(read_until({invoke_begin, calls_end}));
      if (stop_ == calls_end) break;
      if (stop_.empty()) refuse("ValueError", "neither a call nor the end of the calls");
      out.push_back(call());
    }
    return out;
  }

  tool_call call() {
    tool_call c{invoke_name(read_until({parameter_begin, invoke_end})), {}};
    std::unordered_set<std::string> names;
    std::string arguments = "{";
    while (stop_ == parameter_begin) {
      const std::string_view attributes = read_until({parameter_end});
      const parameter p = parameter_of(attributes);
      if (!names.emplace(p.name).second)
        refuse("ValueError", "parameter " + python::shown(json(p.name)) + " twice");
      if (names.size() > 1) arguments += ", ";
      python::dump_string(arguments, p.name, false);
      arguments += ": ";
      if (p.is_string) {
        python::dump_string(arguments, p.value, false);
      } else {
        arguments += p.value;
      }
      expect_line_end(read_until({parameter_begin, invoke_end}));
    }
    c.arguments = arguments + "}";
    return c;
  }

  /// The name in ` name="NAME">\n`, with any white space before, and one line more or not after it.
  std::string invoke_name(std::string_view all) const {
    std::string_view rest = all;
    while (!rest.empty()) {
      const code_point c = decode_wtf8(rest, 0, surrogates::allowed);
      if (c.bytes == 0 || !is_python_space(c.value)) break;
      rest.remove_prefix(c.bytes);
    }
    if (rest.ends_with("\n\n")) rest.remove_suffix(1);
    constexpr std::string_view before = "name=\"", after = "\">\n";
    if (rest.size() < before.size() + after.size() || !rest.starts_with(before) || !rest.ends_with(after))
      expected("name=\"...\">\\n of a call", all);
    return std::string(rest.substr(before.size(), rest.size() - before.size() - after.size()));
  }

  struct parameter {
    std::string name;
    bool is_string;
    std::string_view value;
  };

  /// The three parts of ` name="NAME" string="true">VALUE<`; a line end before the tag that follows is lost.
  parameter parameter_of(std::string_view all) const {
    constexpr std::string_view before = " name=\"";
    std::string_view rest = all;
    if (rest.ends_with("<\n")) rest.remove_suffix(1);
    if (rest.starts_with(before) && rest.ends_with('<')) {
      rest.remove_prefix(before.size());
      rest.remove_suffix(1);
      constexpr std::string_view attribute = "\" string=\"";
      for (std::size_t at = rest.find(attribute); at != rest.npos; at = rest.find(attribute, at + 1))
        for (const std::string_view end : {"true\">", "false\">"})
          if (const std::string_view value = rest.substr(at + attribute.size()); value.starts_with(end))
            return {std::string(rest.substr(0, at)), end[0] == 't', value.substr(end.size())};
    }
    expected("name=\"...\" string=\"true|false\">...< of a parameter", all);
  }

  std::string_view text_, stop_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// The message that a completion says.  Its calls have no ids; their arguments are JSON texts.
inline chat_message parse_completion(std::string_view text, thinking_mode mode) {
  return detail::completion_parser(text).message(mode);
}

/// The same of one input of the parser: {"text": "...", "thinking_mode": "thinking"}.  Absent, the mode is thinking; the
/// released parser takes every other name for chat, and so does this.
inline chat_message parse_completion(const json& in) {
  const detail::place at{"input"};
  const json &text = detail::need(at, in, "text"), *mode = in.find("thinking_mode");
  if (!text.text()) (at / "text").expected("TypeError", "a string", text);
  return parse_completion(*text.text(),
                          !mode || *mode == json("thinking") ? thinking_mode::thinking : thinking_mode::chat);
}

/// A parsed message as JSON, in the released parser's order of keys.
inline json to_json(const chat_message& m) {
  json::array calls;
  for (const tool_call& c : m.tool_calls)
    calls.push_back(json::object{{"type", "function"},
                                 {"function", json::object{{"name", c.name}, {"arguments", c.arguments}}}});
  return json::object{{"role", m.role},
                      {"content", m.content},
                      {"reasoning_content", m.reasoning_content},
                      {"tool_calls", std::move(calls)}};
}

}  // namespace dsv4::text
