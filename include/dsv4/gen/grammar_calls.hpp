// SPDX-License-Identifier: MIT
#pragma once
/// Grammars (grammar.hpp) of calls of tools: the block of calls that the prompt asks for (text/dsml.hpp), then the end.
///   a string goes between string="true" tags as it is, everything else as JSON between string="false" tags; a
///   parameter of several types has either form.  Arguments follow each function's `parameters`, as an object does.
/// @throws unsupported  as grammar_json.hpp; no function, or a name that a tag cannot hold
#include "grammar_json.hpp"

namespace dsv4 {

struct calls_options {
  bool may_answer = false;  ///< words may come before the calls, and the calls may stay out
  bool one = false;         ///< one call, no more
};
/// functions: {"name": .., "parameters": schema}; no parameters: the function takes none.
grammar calls_grammar(const text::json::array& functions, const calls_options& options = {});

}  // namespace dsv4

#if !defined(DSV4_COMPILED)
#include "grammar_calls_impl.hpp"
#endif
