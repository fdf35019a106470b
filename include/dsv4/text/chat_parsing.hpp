// SPDX-License-Identifier: MIT
#pragma once
/// What a model wrote, back to a message: the inverse of the assistant's part of chat_encoding.hpp.
///
/// The grammar, what is strict and what is lenient: stream_parser.hpp, of which this collects the events.  Special tokens
/// inside reasoning or content are refused, after everything else.
///
/// oracle    the released parser: reference_tests/data/encoding
/// deviates  nothing
/// @throws refused  byte, what was expected, what was found; kind AssertionError or ValueError
#include <string>
#include <string_view>
#include <utility>

#include "../core/config_macros.hpp"
#include "stream_parser.hpp"

namespace dsv4::text {

/// Joins the events of a stream_parser to a message.
class message_collector : public answer_sink {
 public:
  void text(answer_part part, std::string_view words) override { part_of(part) += words; }
  void special_token(answer_part part, std::string_view token) override {
    part_of(part) += token;
    if (stranger_.empty()) stranger_ = token, stranger_part_ = part;
  }
  void call_begin(std::string_view name) override {
    message_.tool_calls.push_back({std::string(name), {}});
    arguments_.clear();
  }
  void arguments(std::string_view json_text) override { arguments_ += json_text; }
  void call_end() override { message_.tool_calls.back().arguments = std::move(arguments_); }

  /// The whole message, once.  @throws refused  a special token inside reasoning or content
  chat_message take() {
    if (!stranger_.empty()) answer_sink::special_token(stranger_part_, stranger_);
    return std::move(message_);
  }

 private:
  std::string& part_of(answer_part part) {
    return part == answer_part::content ? message_.content : message_.reasoning_content;
  }

  chat_message message_{"assistant"};
  std::string arguments_;
  std::string stranger_;  // the first special token among words
  answer_part stranger_part_ = answer_part::content;
};

/// The message that a completion says.  Its calls have no ids; their arguments are JSON texts.
chat_message parse_completion(std::string_view text, thinking_mode mode);

/// The same of one input of the parser: {"text": "...", "thinking_mode": "thinking"}.  Absent, the mode is thinking; the
/// released parser takes every other name for chat, and so does this.
chat_message parse_completion(const json& in);

/// A parsed message as JSON, in the released parser's order of keys.
json to_json(const chat_message& m);

}  // namespace dsv4::text

#if !defined(DSV4_COMPILED)
#include "chat_parsing_impl.hpp"
#endif
