// SPDX-License-Identifier: MIT
#pragma once
/// The body of grammar_calls.hpp.
#include "grammar_calls.hpp"
#include "grammar_json_impl.hpp"

namespace dsv4 {

DSV4_INLINE grammar calls_grammar(const text::json::array& functions, const calls_options& options) {
  using place = grammar::place;
  if (functions.empty()) throw unsupported("calls_grammar: there is no function to call");
  // References of a schema are to its own document, so each function has a writer; they share the program.
  grammar g;
  const place end = g.end();
  const place over = g.text("</" + std::string(text::dsml_token) + "tool_calls>", end);
  const place calls = g.later();
  place any = -1;
  for (const text::json& f : functions) {
    const text::json *name = f.find("name"), *parameters = f.find("parameters");
    if (!name || !name->text() || name->text()->find_first_of("\"\n") != std::string::npos)
      throw unsupported("calls_grammar: a function needs a name without quotes and line ends");
    const text::json none = text::json::object{};
    detail::schema_writer w(parameters && !parameters->is_null() ? *parameters : none);
    w.g = std::move(g);
    const text::json& schema = parameters && !parameters->is_null() ? *parameters : none;
    const std::string dsml(text::dsml_token), where = *name->text() + "#";
    w.check_keywords(schema, where);
    for (const char* form : {"$ref", "anyOf", "enum", "const"})
      if (schema.find(form))
        throw unsupported("schema " + where + ": the parameters of a function by " + form +
                          " are not supported");
    const place next = options.one ? over : w.g.either(calls, over);
    const auto one = [&](const std::string& key, const text::json& of, const std::string& at, place then) {
      if (key.find_first_of("\"\n") != std::string::npos || key.find("\uFF5C") != std::string::npos)
        throw unsupported(at + ": a parameter whose name holds a quote, a line end or U+FF5C");
      return w.g.text("<" + dsml + "parameter name=\"" + key,
                      w.argument(of, at, w.g.text("</" + dsml + "parameter>", then)));
    };
    const place call = w.g.text("<" + dsml + "invoke name=\"" + *name->text() + "\">\n",
                                w.members(schema, where, w.g.text("\n</" + dsml + "invoke>\n", next), one,
                                          [&](place at) { return w.g.text("\n", at); }));
    g = std::move(w.g);
    any = any < 0 ? call : g.either(call, any);
  }
  g.set_later(calls, any);
  const place block = g.text("\n\n<" + std::string(text::dsml_token) + "tool_calls>\n", calls);
  if (!options.may_answer) {
    g.finish(block);
    return g;
  }
  const text::json nothing;
  detail::schema_writer w(nothing);
  w.g = std::move(g);
  const place start = w.words(w.g.either(block, end));
  w.g.finish(start);
  return std::move(w.g);
}

}  // namespace dsv4
