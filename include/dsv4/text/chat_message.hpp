// SPDX-License-Identifier: MIT
#pragma once
/// A conversation: messages as OpenAI's chat API writes them in JSON, and how a prompt is to be made of them.
///
///   {"messages": [{"role": "user", "content": "Hi"}], "thinking_mode": "thinking", "reasoning_effort": "max",
///    "drop_thinking": true, "add_default_bos_token": true, "context": [messages before, already in the cache]}
///
/// Absent: thinking_mode thinking, reasoning_effort null (the same as "high"), drop_thinking and
/// add_default_bos_token true, context empty.  Two forms more, for convenience: a list alone is the messages, and
/// `tools` beside `messages` belong to the first message if it is a system or developer message, else to a system
/// message put before it.
///
/// A message's fields by role; others are ignored, as the released encoder ignores them:
///   system       content, tools, response_format                developer    the same, content required
///   user         content, task                                  tool         content (text, or list of blocks), tool_call_id
///   assistant    content, reasoning_content, tool_calls         latest_reminder   content
///   all but tool task, wo_eos
/// `unread_fields` names the others of an input.
///
/// @throws refused      what the released encoder refuses; `kind` is the name of the exception that it raises
/// @throws unsupported  an unknown role; a list or an object where text belongs, of which that encoder would print
///                      Python's own notation
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/config_macros.hpp"
#include "../core/error.hpp"
#include "python_json.hpp"

namespace dsv4::text {

/// An input that the released encoder refuses too.
struct refused : format_error {
  refused(const char* released_kind, const std::string& what) : format_error(what), kind(released_kind) {}
  const char* kind;  ///< AssertionError, ValueError, TypeError, KeyError or AttributeError
};

enum class thinking_mode { chat, thinking };
enum class reasoning_effort { high, max };

/// A call of a tool.  `arguments` is JSON in a string; any other value is passed on as the one parameter "arguments".
struct tool_call {
  std::string name;
  json arguments;
  std::string id = {};
};

struct chat_message {
  std::string role;
  std::string content = {};
  std::string reasoning_content = {};  ///< assistant
  std::vector<tool_call> tool_calls = {};
  json::array tools = {};          ///< descriptions of functions: the objects under "function"
  json response_format = nullptr;  ///< anything false is none
  std::string tool_call_id = {};   ///< tool: which call it answers
  std::optional<std::string> task = {};
  bool wo_eos = false;  ///< assistant: leave the end-of-sentence token out
};

struct encode_options {
  thinking_mode mode = thinking_mode::thinking;
  reasoning_effort effort = reasoning_effort::high;
  bool drop_thinking =
      true;             ///< leave out the reasoning before the last user message, unless there are tools
  bool add_bos = true;  ///< begin with the begin-of-sentence token, unless there is context
};

/// One call of the encoder.
struct chat_request {
  std::vector<chat_message> messages;
  std::vector<chat_message> context = {};
  encode_options options = {};
};

/// What read_request leaves out of an input without a word, as the released encoder does: a mistyped name, or a field
/// of another program.  "messages[0].prefix is no field of a user message", in the order of the input.
std::vector<std::string> unread_fields(const json& in);

/// Messages of a JSON list; `name` is what errors call it.
std::vector<chat_message> read_messages(const json& list, const std::string& name = "messages");

/// The whole input of the encoder, as above.
chat_request read_request(const json& in);

}  // namespace dsv4::text

#if !defined(DSV4_COMPILED)
#include "chat_message_impl.hpp"
#endif
