// SPDX-License-Identifier: MIT
#pragma once
/// DSML, the notation in which the model reads about tools and calls them.
///
///   <｜DSML｜tool_calls>
///   <｜DSML｜invoke name="NAME">
///   <｜DSML｜parameter name="KEY" string="true">VALUE as it is</｜DSML｜parameter>
///   <｜DSML｜parameter name="KEY" string="false">VALUE in JSON</｜DSML｜parameter>
///   </｜DSML｜invoke>
///   </｜DSML｜tool_calls>
///
/// Nothing is escaped.  A call without parameters has an empty line in their place.
/// In a prompt ｜DSML｜ is a control segment where the template writes it, and text where a message does (prompt.hpp).
#include <string>
#include <string_view>
#include <vector>

#include "chat_message.hpp"
#include "prompt.hpp"
#include "python_json.hpp"

namespace dsv4::text::dsml {

/// Introduces tools in a system or developer message: the notation, then a description per line.
inline void write_tools(prompt& out, const json::array& functions) {
  out.add_template(R"(## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

)");
  for (const json& f : functions) {
    if (&f != functions.data()) out.add_text("\n");
    out.add_text(python::dumps(f));
  }
  out.add_text(
      "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool "
      "calls.\n");
}

/// The arguments of a call as an object.  What is no JSON becomes one parameter "arguments".
/// @throws refused  JSON, but no object
inline json::object arguments_of(const tool_call& call) {
  json value;
  try {
    const std::string* text = call.arguments.text();
    if (!text) return {{"arguments", call.arguments}};
    value = python::loads(*text, surrogates::allowed);
  } catch (const json_error&) {
    return {{"arguments", call.arguments}};
  }
  const auto* object = value.get_if<json::object>();
  if (!object)
    throw refused("AttributeError", "arguments of tool call " + python::shown(json(call.name)) +
                                        ": expected a JSON object, found " + type_name(value) + ": " +
                                        python::shown(value));
  return *object;
}

/// A block of calls.
inline void write_calls(prompt& out, const std::vector<tool_call>& calls) {
  out.add_template("<｜DSML｜tool_calls>\n");
  for (const tool_call& call : calls) {
    out.add_template("<｜DSML｜invoke name=\"");
    out.add_text(call.name);
    out.add_text("\">\n");
    const json::object parameters = arguments_of(call);
    for (const json::member& p : parameters) {
      if (&p != parameters.data()) out.add_text("\n");
      const auto& [key, value] = p;
      const std::string* text = value.text();
      out.add_template("<｜DSML｜parameter name=\"");
      out.add_text(key);
      out.add_text(text ? "\" string=\"true\">" : "\" string=\"false\">");
      out.add_text(text ? *text : python::dumps(value));
      out.add_template("</｜DSML｜parameter>");
    }
    out.add_template("\n</｜DSML｜invoke>\n");
  }
  out.add_template("</｜DSML｜tool_calls>");
}

}  // namespace dsv4::text::dsml
