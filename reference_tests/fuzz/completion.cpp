// SPDX-License-Identifier: MIT
// A completion to a message (the first byte chooses the mode), and that message to a prompt and back: the same message,
// where DSML's lack of escapes allows it.
#include <dsv4/text/chat_encoding.hpp>
#include <dsv4/text/chat_parsing.hpp>

#include "fuzz.hpp"

namespace {

namespace text = dsv4::text;

/// The arguments of a call, written anew; nothing where they are no JSON, or hold what ends a parameter too early.
std::string parameters(const text::tool_call& call) {
  try {
    const std::string all =
        text::python::dumps(text::python::loads(*call.arguments.text(), text::surrogates::allowed));
    const bool clear =
        all.find(text::dsml_token) == std::string::npos && all.find("\\\" string=\\\"") == std::string::npos;
    return clear ? all : std::string();
  } catch (const text::json_error&) {
    return {};
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using dsv4_fuzz::require;
  if (size == 0) return 0;
  const auto mode = data[0] & 1 ? text::thinking_mode::thinking : text::thinking_mode::chat;
  dsv4_fuzz::read_or_refuse([&] {
    const text::chat_message first = text::parse_completion(dsv4_fuzz::text_of(data + 1, size - 1), mode);
    for (const text::tool_call& c : first.tool_calls)
      if (parameters(c).empty() || c.name.find(text::dsml_token) != std::string::npos) return;

    // As the answer to a question: exactly what the model wrote after the prompt.
    const text::chat_message question{"user", "?"};
    const std::string written = text::encode_messages({&first, 1}, {mode}, {&question, 1}).text;
    const text::chat_message second = text::parse_completion(written, mode);
    require(second.content == first.content && second.reasoning_content == first.reasoning_content,
            "content");
    require(second.tool_calls.size() == first.tool_calls.size(), "number of calls");
    for (std::size_t i = 0; i < first.tool_calls.size(); ++i) {
      require(second.tool_calls[i].name == first.tool_calls[i].name, "name of a call");
      require(parameters(second.tool_calls[i]) == parameters(first.tool_calls[i]), "arguments of a call");
    }
    require(text::encode_messages({&second, 1}, {mode}, {&question, 1}).text == written, "written again");
  });
  return 0;
}
