// SPDX-License-Identifier: MIT
#pragma once
/// What a model writes, taken apart while it is being written: reasoning, content, calls and their arguments, as they come.
///
///   completion = [reasoning </think>]   only in thinking mode, where the prompt ended in <think>
///                content (<｜end▁of▁sentence｜> | \n\n calls [<｜end▁of▁sentence｜>])
///
/// The pieces may be cut anywhere, in the middle of a character too: the events, joined, do not depend on the cuts.
/// No event ever holds part of a marker or of a character; what could still become one is held back (at most 26 bytes
/// of text, the longest marker; the name of a call or of a parameter until it is complete).
///
/// Strict, as the released parser is: nothing may follow, and tags stand where the encoder puts them.  Also
/// lenient where it is: after a block of calls the end token may be missing, a text that breaks off after the first tag or
/// after a complete parameter or call counts as complete, and a string="false" value is passed on unread, so that the
/// arguments of a call may be no JSON.  The time is linear in the length.
///
/// oracle    the released parser: reference_tests/data/encoding (parse_completion, chat_parsing.hpp, is this one)
/// deviates  a special token inside reasoning or content is an event of its own, so that a server can stop at once
/// @throws refused  byte, what was expected, what was found; kind AssertionError or ValueError
#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "chat_message.hpp"
#include "prompt.hpp"
#include "python_json.hpp"
#include "unicode.hpp"

namespace dsv4::text {

/// Where a piece of text belongs.
enum class answer_part { reasoning, content };

/// Receives what a stream_parser finds, in order.  An exception thrown by a sink leaves the parser unusable.
struct answer_sink {
  virtual ~answer_sink() = default;
  /// The next words of a part: whole characters, never part of a marker, never empty.
  virtual void text(answer_part part, std::string_view words) = 0;
  /// A special token where only words may be.  By default refused.
  virtual void special_token(answer_part part, std::string_view token) {
    throw refused("AssertionError", "completion: special token " + std::string(token) + " inside the " +
                                        (part == answer_part::content ? "content" : "reasoning"));
  }
  virtual void call_begin(std::string_view name) = 0;
  /// The next piece of the JSON text of the call's arguments: whole characters and whole escapes.
  virtual void arguments(std::string_view json_text) = 0;
  virtual void call_end() = 0;
};

namespace detail {

/// Python's \s: white space of Unicode, and the separators 1C to 1F.
inline bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

/// How many bytes at the end of `text` begin a character that is not complete yet.
inline std::size_t unfinished_character(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (byte < 0x80) return 0;            // a whole character
    if ((byte & 0xC0) == 0x80) continue;  // a continuation: look further back for its lead
    const std::size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
    return length > back ? back : 0;
  }
  return 0;
}

}  // namespace detail

/// One completion.  One thread; the sink may differ from call to call.
class stream_parser {
 public:
  explicit stream_parser(thinking_mode mode)
      : state_(mode == thinking_mode::thinking ? state::reasoning : state::content) {}

  /// The next piece, of any length.  @throws refused
  void feed(std::string_view piece, answer_sink& sink) {
    read_.erase(0, begin_);
    begin_ = 0;
    read_.append(piece);
    while (advance(sink, false)) {
    }
  }

  /// There is no more.  @throws refused if the completion is not complete
  void finish(answer_sink& sink) {
    while (advance(sink, true)) {
    }
    conclude(sink);
  }

  /// Whether the end-of-sentence token has been read.
  bool ended() const { return state_ == state::end; }
  /// Bytes of the completion that are behind an event or a tag.
  std::size_t consumed() const { return consumed_; }

 private:
  enum class state {
    reasoning,
    content,
    between_calls,    // after <｜DSML｜tool_calls or </｜DSML｜invoke
    call_name,        // after <｜DSML｜invoke
    parameter_begin,  // after <｜DSML｜parameter: before its name
    parameter_name,   // inside name="
    value,            // after string="...">
    after_value,      // after </｜DSML｜parameter
    after_calls,      // after </｜DSML｜tool_calls>
    end,              // after the end-of-sentence token
  };

  static constexpr std::string_view calls_open = "\n\n<｜DSML｜tool_calls",
                                    calls_close = "</｜DSML｜tool_calls>";
  static constexpr std::string_view call_open = "<｜DSML｜invoke", call_close = "</｜DSML｜invoke";
  static constexpr std::string_view parameter_open = "<｜DSML｜parameter", name_open = " name=\"";
  static constexpr std::string_view is_text = "\" string=\"true\">", is_json = "\" string=\"false\">";
  // A value ends with a "<", lost together with a line end behind it; without the "<" it is malformed.
  static constexpr std::string_view value_close = "</｜DSML｜parameter",
                                    value_close_line = "<\n/｜DSML｜parameter",
                                    value_close_bare = "/｜DSML｜parameter";

  [[noreturn]] void refuse(const char* kind, const std::string& what) const {
    throw refused(kind, "completion, byte " + std::to_string(consumed_) + ": " + what);
  }
  [[noreturn]] void expected(const std::string& what, std::string_view found) const {
    refuse("ValueError", "expected " + what + ", found " + python::shown(json(found)));
  }

  /// Where the first of `stops` begins in what is pending, and which it is.  Empty: none is there; `at` is then where
  /// one may have begun (the end, if none).
  struct hit {
    std::size_t at;
    std::string_view stop;
  };
  hit find(std::initializer_list<std::string_view> stops, bool last) {
    const std::string_view all = pending();
    for (; scanned_ < all.size(); ++scanned_) {
      const std::string_view rest = all.substr(scanned_);
      bool may_begin = false;
      for (const std::string_view s : stops) {
        if (rest.front() != s.front()) continue;
        if (rest.starts_with(s)) return {scanned_, s};
        may_begin = may_begin || (!last && s.starts_with(rest));
      }
      if (may_begin) break;
    }
    return {scanned_, {}};
  }

  /// Read, but not yet behind an event or a tag.
  std::string_view pending() const { return std::string_view(read_).substr(begin_); }
  void consume(std::size_t bytes) {
    begin_ += bytes;
    consumed_ += bytes;
    scanned_ = scanned_ > bytes ? scanned_ - bytes : 0;
  }
  /// Past a tag, into another state.
  void go(const hit& h, state next) {
    consume(h.at + h.stop.size());
    scanned_ = 0;
    state_ = next;
  }

  /// One step; false when more input is needed.
  bool advance(answer_sink& sink, bool last) {
    if (pending().empty()) return false;
    switch (state_) {
      case state::reasoning: return words(sink, last, answer_part::reasoning);
      case state::content: return words(sink, last, answer_part::content);
      case state::between_calls: return between_calls(last);
      case state::call_name: return call_name(sink, last);
      case state::parameter_begin: return parameter_begin();
      case state::parameter_name: return parameter_name(sink, last);
      case state::value: return value(sink, last);
      case state::after_value: return after_value(sink, last);
      case state::after_calls: return after_calls(last);
      case state::end: refuse("AssertionError", "text after the end-of-sentence token");
    }
    return false;
  }

  /// What is pending up to `h`, whole characters of it.
  template <class F>
  void emit(const hit& h, bool last, F&& to) {
    std::string_view ready = pending().substr(0, h.at);
    if (h.stop.empty() && !last) ready.remove_suffix(detail::unfinished_character(ready));
    if (ready.empty()) return;
    to(ready);
    consume(ready.size());
  }

  bool words(answer_sink& sink, bool last, answer_part part) {
    const bool thinking = part == answer_part::reasoning;
    // Reasoning ends with </think>, content with the end token; each is a stranger in the other.
    hit h = find({calls_open, eos_token, end_think_token, bos_token, think_token, dsml_token}, last);
    const std::string_view stop = h.stop;
    emit(h, last, [&](std::string_view ready) { sink.text(part, ready); });
    if (stop.empty()) return false;
    h.at = 0;
    if (stop == calls_open) {
      if (thinking) refuse("AssertionError", "thinking mode, but no </think> ends the reasoning");
      go(h, state::between_calls);
      fresh_ = true;
    } else if (stop == (thinking ? end_think_token : eos_token)) {
      go(h, thinking ? state::content : state::end);
    } else {
      sink.special_token(part, stop);
      go(h, state_);
    }
    return true;
  }

  /// What must stand between the end of one tag and the next.
  void expect_line_end(std::string_view found) const {
    if (found != ">\n") expected("\">\\n\" and a tag", found);
  }
  /// The same before the next tag has come: what is there must still be able to become right.
  bool wait_for_tag(const hit& h) const {
    if (h.at > line_end.size() || !line_end.starts_with(pending().substr(0, h.at)))
      expect_line_end(pending().substr(0, h.at));
    return false;
  }

  bool between_calls(bool last) {
    const hit h = find({call_open, calls_close}, last);
    fresh_ = false;
    if (h.stop.empty()) return wait_for_tag(h);
    expect_line_end(pending().substr(0, h.at));
    go(h, h.stop == call_open ? state::call_name : state::after_calls);
    return true;
  }

  bool call_name(answer_sink& sink, bool last) {
    const hit h = find({parameter_open, call_close}, last);
    if (h.stop.empty()) return false;
    begin_call(sink, pending().substr(0, h.at));
    if (h.stop == call_close) end_call(sink);
    go(h, h.stop == call_close ? state::between_calls : state::parameter_begin);
    fresh_ = true;
    return true;
  }
  void begin_call(answer_sink& sink, std::string_view attributes) {
    sink.call_begin(name_of_call(attributes));
    sink.arguments("{");
    names_.clear();
  }
  void end_call(answer_sink& sink) {
    sink.arguments("}");
    sink.call_end();
  }

  /// The name in ` name="NAME">\n`, with any white space before, and one line more or not after it.
  std::string_view name_of_call(std::string_view all) const {
    std::string_view rest = all;
    while (!rest.empty()) {
      const code_point c = decode_wtf8(rest, 0, surrogates::allowed);
      if (c.bytes == 0 || !detail::is_python_space(c.value)) break;
      rest.remove_prefix(c.bytes);
    }
    if (rest.ends_with("\n\n")) rest.remove_suffix(1);
    constexpr std::string_view before = "name=\"", after = "\">\n";
    if (rest.size() < before.size() + after.size() || !rest.starts_with(before) || !rest.ends_with(after))
      expected("name=\"...\">\\n of a call", all);
    return rest.substr(before.size(), rest.size() - before.size() - after.size());
  }

  [[noreturn]] void bad_parameter(std::string_view found) const {
    expected("name=\"...\" string=\"true|false\">...< of a parameter", found);
  }
  bool parameter_begin() {
    const std::string_view all = pending();
    if (!name_open.starts_with(all.substr(0, name_open.size()))) bad_parameter(all);
    if (all.size() < name_open.size()) return false;
    go({0, name_open}, state::parameter_name);
    return true;
  }
  bool parameter_name(answer_sink& sink, bool last) {
    const hit h = find({is_text, is_json, value_close_bare}, last);
    if (h.stop.empty()) return false;
    const std::string_view name = pending().substr(0, h.at);
    if (h.stop == value_close_bare) bad_parameter(name);
    if (!names_.emplace(name).second)
      refuse("ValueError", "parameter " + python::shown(json(name)) + " twice");
    is_text_ = h.stop == is_text;
    std::string before = names_.size() > 1 ? ", " : "";
    python::dump_string(before, name, false);
    before += is_text_ ? ": \"" : ": ";
    sink.arguments(before);
    go(h, state::value);
    return true;
  }
  bool value(answer_sink& sink, bool last) {
    hit h = find({value_close, value_close_line, value_close_bare}, last);
    const std::string_view stop = h.stop;
    if (stop == value_close_bare) bad_parameter(pending().substr(0, h.at));
    emit(h, last, [&](std::string_view ready) {
      if (!is_text_) return sink.arguments(ready);
      std::string quoted;
      python::dump_string(quoted, ready, false);
      sink.arguments(std::string_view(quoted).substr(1, quoted.size() - 2));
    });
    if (stop.empty()) return false;
    if (is_text_) sink.arguments("\"");
    h.at = 0;
    go(h, state::after_value);
    return true;
  }
  bool after_value(answer_sink& sink, bool last) {
    const hit h = find({parameter_open, call_close}, last);
    if (h.stop.empty()) return wait_for_tag(h);
    expect_line_end(pending().substr(0, h.at));
    if (h.stop == call_close) end_call(sink);
    go(h, h.stop == call_close ? state::between_calls : state::parameter_begin);
    fresh_ = true;
    return true;
  }
  bool after_calls(bool last) {
    const hit h = find({eos_token}, last);
    if (h.at > 0) refuse("AssertionError", "text after the tool calls");
    if (h.stop.empty()) return false;
    go(h, state::end);
    return true;
  }

  /// Whether the input may end where it has ended.
  void conclude(answer_sink& sink) {
    const std::string_view rest = pending();
    switch (state_) {
      case state::reasoning: refuse("AssertionError", "thinking mode, but no </think> ends the reasoning");
      case state::content: refuse("AssertionError", "no end-of-sentence token");
      case state::between_calls:
        if (fresh_) return;  // just after a tag
        expect_line_end(rest);
        refuse("ValueError", "neither a call nor the end of the calls");
      case state::call_name: begin_call(sink, rest); return end_call(sink);
      case state::parameter_begin:
      case state::parameter_name:
      case state::value: bad_parameter(rest);
      case state::after_value: expect_line_end(rest); return end_call(sink);
      case state::after_calls:
      case state::end: return;
    }
  }

  static constexpr std::string_view line_end = ">\n";

  state state_;
  std::string read_;  // what came and is not forgotten yet; begin_ bytes of it are done with
  std::size_t begin_ = 0;
  std::size_t scanned_ = 0;  // no stop begins in pending() before this
  std::size_t consumed_ = 0;
  bool fresh_ = false;                     // nothing has come since the tag that led here
  bool is_text_ = false;                   // the value is a string
  std::unordered_set<std::string> names_;  // of the parameters of this call
};

}  // namespace dsv4::text
