// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of chat_message.hpp.
#include <algorithm>
#include "chat_message.hpp"

namespace dsv4::text {

namespace detail {

/// Where in the input we are, and how to refuse it.
struct place {
  std::string name;
  place operator/(const std::string& field) const { return {name + "." + field}; }
  place operator[](std::size_t i) const { return {name + "[" + std::to_string(i) + "]"}; }
  [[noreturn]] void refuse(const char* kind, const std::string& what) const {
    throw refused(kind, name + ": " + what);
  }
  [[noreturn]] void expected(const char* kind, const std::string& what, const json& found) const {
    refuse(kind, "expected " + what + ", found " + type_name(found) + ": " + python::shown(found));
  }
};

/// Python's str(value), which formatting puts into the prompt.
DSV4_INLINE std::string python_str(const place& at, const json& value) {
  if (const std::string* s = value.text()) return *s;
  if (value.is_null()) return "None";
  if (const bool* b = value.get_if<bool>()) return *b ? "True" : "False";
  if (const auto* i = value.get_if<json::integer>()) return i->digits;
  if (const double* d = value.get_if<double>()) return python::repr(*d);
  throw unsupported(at.name + ": text of " + type_name(value) + "; write a string: " + python::shown(value));
}

/// A field that is absent, false or empty as "".
DSV4_INLINE std::string text_or_empty(const place& at, const json& object, std::string_view name) {
  const json* v = object.find(name);
  return v && truthy(*v) ? python_str(at / std::string(name), *v) : std::string();
}

DSV4_INLINE const json::array& as_list(const place& at, const json& value) {
  const auto* list = value.get_if<json::array>();
  if (!list) at.expected("TypeError", "a list", value);
  return *list;
}

DSV4_INLINE const json& need(const place& at, const json& object, std::string_view name) {
  if (!object.is<json::object>()) at.expected("TypeError", "an object", object);
  const json* v = object.find(name);
  if (!v) at.refuse("KeyError", "field '" + std::string(name) + "' is missing");
  return *v;
}

/// A name to compare: "" if absent or false.
DSV4_INLINE std::string read_name(const place& at, const json* value) {
  if (value && (value->is<json::array>() || value->is<json::object>()))
    at.expected("TypeError", "a string", *value);
  if (!value || !truthy(*value)) return "";
  return value->text() ? *value->text() : python::shown(*value);
}

/// The functions of a list of tools; absent, null and empty are none.
DSV4_INLINE json::array read_tools(const place& at, const json* tools) {
  json::array out;
  if (!tools || !truthy(*tools)) return out;
  for (const json& tool : as_list(at, *tools)) out.push_back(need(at[out.size()], tool, "function"));
  return out;
}

DSV4_INLINE std::vector<tool_call> read_tool_calls(const place& at, const json* calls) {
  std::vector<tool_call> out;
  if (!calls || !truthy(*calls)) return out;
  for (const json& call : as_list(at, *calls)) {
    const place here = at[out.size()];
    const json& function = need(here, call, "function");
    const place inside = here / "function";
    tool_call c{python_str(inside / "name", need(inside, function, "name")),
                need(inside, function, "arguments")};
    const json* id = call.find("id");
    if (!id || !truthy(*id)) id = function.find("id");
    c.id = read_name(here / "id", id);
    out.push_back(std::move(c));
  }
  return out;
}

/// What a tool answered: text, or a list of blocks of which the texts count.
DSV4_INLINE std::string read_tool_content(const place& at, const json* content) {
  if (!content) return "";
  const auto* blocks = content->get_if<json::array>();
  if (!blocks) return python_str(at, *content);
  std::string out;
  for (std::size_t i = 0; i < blocks->size(); ++i) {
    const json& block = (*blocks)[i];
    if (!block.is<json::object>()) at[i].expected("AttributeError", "an object", block);
    if (i) out += "\n\n";
    const json *type = block.find("type"), *text = block.find("text");
    if (type && *type == json("text")) {
      if (text && !text->text()) (at[i] / "text").expected("TypeError", "a string", *text);
      if (text) out += *text->text();
    } else {
      out += "[Unsupported " + (type ? python_str(at[i] / "type", *type) : "None") + "]";
    }
  }
  return out;
}

/// `value` as a string, absent as "".
DSV4_INLINE std::string string_or_absent(const place& at, const json* value) {
  if (value && !value->text()) at.expected("TypeError", "a string", *value);
  return value ? *value->text() : std::string();
}

DSV4_INLINE chat_message read_message(const place& at, const json& in) {
  if (!in.is<json::object>()) at.expected("AttributeError", "an object", in);
  const json *role = in.find("role"), *content = in.find("content"), *task = in.find("task"),
             *wo_eos = in.find("wo_eos");
  chat_message m;
  m.role = read_name(at / "role", role);
  if (m.role == "tool") {
    m.content = read_tool_content(at / "content", content);
    m.tool_call_id = read_name(at / "tool_call_id", in.find("tool_call_id"));
    return m;
  }
  if (task && !task->is_null()) m.task = task->text() ? *task->text() : python::shown(*task);
  m.wo_eos = wo_eos && truthy(*wo_eos);
  if (m.role == "user") {
    m.content = string_or_absent(at / "content", content);
    return m;
  }
  m.tools = read_tools(at / "tools", in.find("tools"));
  m.tool_calls = read_tool_calls(at / "tool_calls", in.find("tool_calls"));
  if (const json* format = in.find("response_format")) m.response_format = *format;
  if (m.role == "latest_reminder") {
    m.content = python_str(at / "content", content ? *content : json());
  } else if (m.role == "developer") {
    m.content = content && truthy(*content) ? string_or_absent(at / "content", content) : std::string();
  } else if (m.role == "system" || m.role == "assistant") {
    m.content = text_or_empty(at, in, "content");
    if (m.role == "assistant") m.reasoning_content = text_or_empty(at, in, "reasoning_content");
  }
  return m;
}

/// The fields that are read of a message with this role; null: the role is unknown.
DSV4_INLINE const std::vector<std::string_view>* fields_of(std::string_view role) {
  using list = std::vector<std::string_view>;
  static const std::vector<std::pair<std::string_view, list>> all{
      {"system", {"role", "content", "tools", "response_format", "task", "wo_eos"}},
      {"developer", {"role", "content", "tools", "response_format", "task", "wo_eos"}},
      {"user", {"role", "content", "task", "wo_eos"}},
      {"tool", {"role", "content", "tool_call_id"}},
      // mask is of training data, and never of a prompt.
      {"assistant", {"role", "content", "reasoning_content", "tool_calls", "task", "wo_eos", "mask"}},
      {"latest_reminder", {"role", "content", "task", "wo_eos"}}};
  for (const auto& [name, fields] : all)
    if (name == role) return &fields;
  return nullptr;
}

}  // namespace detail

/// What read_request leaves out of an input without a word, as the released encoder does: a mistyped name, or a field
/// of another program.  "messages[0].prefix is no field of a user message", in the order of the input.
DSV4_INLINE std::vector<std::string> unread_fields(const json& in) {
  std::vector<std::string> out;
  const auto look = [&](const json& object, const std::vector<std::string_view>& known,
                        const std::string& prefix, const std::string& what) {
    if (const auto* members = object.get_if<json::object>())
      for (const auto& [name, value] : *members)
        if (std::find(known.begin(), known.end(), name) == known.end())
          out.push_back(prefix + python::shown(json(name)) + " is no field of " + what);
  };
  const auto look_at_messages = [&](const json* list, const std::string& name) {
    const auto* messages = list ? list->get_if<json::array>() : nullptr;
    for (std::size_t i = 0; messages && i < messages->size(); ++i) {
      const json* role = (*messages)[i].find("role");
      if (const std::string* text = role ? role->text() : nullptr)
        if (const auto* known = detail::fields_of(*text))
          look((*messages)[i], *known, name + "[" + std::to_string(i) + "]: ",
               (*text == "assistant" ? "an " : "a ") + *text + " message");
    }
  };
  if (in.is<json::array>()) {
    look_at_messages(&in, "messages");
    return out;
  }
  look(in,
       {"messages", "context", "thinking_mode", "reasoning_effort", "drop_thinking", "add_default_bos_token",
        "tools"},
       "", "the input");
  look_at_messages(in.find("messages"), "messages");
  look_at_messages(in.find("context"), "context");
  return out;
}

DSV4_INLINE std::vector<chat_message> read_messages(const json& list, const std::string& name) {
  std::vector<chat_message> out;
  const detail::place at{name};
  for (const json& m : detail::as_list(at, list)) out.push_back(detail::read_message(at[out.size()], m));
  return out;
}

DSV4_INLINE chat_request read_request(const json& in) {
  if (in.is<json::array>()) return {read_messages(in)};
  const detail::place at{"input"};
  chat_request r{read_messages(detail::need(at, in, "messages"))};
  if (const json* context = in.find("context"); context && truthy(*context))
    r.context = read_messages(*context, "context");
  if (const json* mode = in.find("thinking_mode")) {
    if (*mode == json("chat"))
      r.options.mode = thinking_mode::chat;
    else if (*mode != json("thinking"))
      at.refuse("AssertionError",
                "thinking_mode is " + python::shown(*mode) + R"(, expected "chat" or "thinking")");
  }
  if (const json* effort = in.find("reasoning_effort")) {
    if (*effort == json("max"))
      r.options.effort = reasoning_effort::max;
    else if (!effort->is_null() && *effort != json("high"))
      at.refuse("AssertionError",
                "reasoning_effort is " + python::shown(*effort) + R"(, expected "high", "max" or null)");
  }
  if (const json* drop = in.find("drop_thinking")) r.options.drop_thinking = truthy(*drop);
  if (const json* bos = in.find("add_default_bos_token")) r.options.add_bos = truthy(*bos);
  if (json::array tools = detail::read_tools(at / "tools", in.find("tools")); !tools.empty()) {
    if (r.messages.empty() || (r.messages[0].role != "system" && r.messages[0].role != "developer"))
      r.messages.insert(r.messages.begin(), chat_message{"system"});
    r.messages[0].tools = std::move(tools);
  }
  return r;
}

}  // namespace dsv4::text
