// SPDX-License-Identifier: MIT
#pragma once
/// Grammars (grammar.hpp) of JSON schemas: some of the JSON texts that a schema allows, and no others.
///   type            string number integer boolean null object array, or a list of them
///   enum, const     as they are written by json.dumps
///   properties      those of `required`, and any of the others, in the order of the schema; no further ones
///   additionalProperties   beside no properties: members of any name with such a value; absent there: any value
///   items, minItems, maxItems · minLength, maxLength · anyOf · $ref within the document, also to itself
///   a schema {} or true: any JSON
/// Annotations change nothing: title, description, default, examples, $schema, $id, $comment, deprecated, readOnly,
/// writeOnly, $defs, definitions, strict.  Every other keyword is refused by name, since ignoring it could let a text
/// through that the schema forbids (pattern, format, minimum, oneOf, uniqueItems, …).
///
/// Notation, narrower than JSON so that an answer comes to its end: one space or none after "," and ":", no other white
/// space; integers of at most 15 digits, fractions of 15 and exponents of 2; \u without surrogates; no U+FF5C but as \uff5c.
/// @throws unsupported  a keyword that is not in the list, and where it is; a schema that no text satisfies
#include <string>

#include "../text/json_value.hpp"
#include "grammar.hpp"

namespace dsv4 {

grammar json_grammar(const text::json& schema);

/// Any JSON object.
grammar json_object_grammar();

}  // namespace dsv4

#if !defined(DSV4_COMPILED)
#include "grammar_json_impl.hpp"
#endif
