// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of chat_parsing.hpp.
#include "chat_message_impl.hpp"
#include "chat_parsing.hpp"

namespace dsv4::text {

DSV4_INLINE chat_message parse_completion(std::string_view text, thinking_mode mode) {
  message_collector all;
  stream_parser parser(mode);
  parser.feed(text, all);
  parser.finish(all);
  return all.take();
}

DSV4_INLINE chat_message parse_completion(const json& in) {
  const detail::place at{"input"};
  const json &text = detail::need(at, in, "text"), *mode = in.find("thinking_mode");
  if (!text.text()) (at / "text").expected("TypeError", "a string", text);
  return parse_completion(*text.text(),
                          !mode || *mode == json("thinking") ? thinking_mode::thinking : thinking_mode::chat);
}

DSV4_INLINE json to_json(const chat_message& m) {
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
