// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of grammar_json.hpp.
#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <vector>

#include "../text/prompt.hpp"
#include "../text/python_json.hpp"
#include "grammar_impl.hpp"
#include "grammar_json.hpp"

namespace dsv4 {

namespace detail {

/// Writes the program of one document.
class schema_writer {
 public:
  using json = text::json;
  using place = grammar::place;

  grammar g;

  explicit schema_writer(const json& root) : root_(root) {}

  /// JSON of `schema`, which lies at `where` of the document.
  place value(const json& schema, const std::string& where, place next) {
    if (const bool* all = schema.get_if<bool>()) {
      if (*all) return any_value(next);
      return g.bytes({}, next);  // false: no text
    }
    check_keywords(schema, where);
    if (const json* ref = schema.find("$ref")) return g.call(rule_of(*ref, where), next);
    if (const json* list = choices(schema, where)) {
      return any_of(*list->get_if<json::array>(), [&](const json& one, std::size_t i) {
        return value(one, where + "/anyOf/" + std::to_string(i), next);
      });
    }
    if (const json::array literals = literals_of(schema, where); !literals.empty())
      return any_of(literals, [&](const json& one, std::size_t) { return g.text(dumps(one), next); });
    const json::array types = types_of(schema, where);
    if (types.empty()) return any_value(next);
    return any_of(types,
                  [&](const json& type, std::size_t) { return of_type(*type.text(), schema, where, next); });
  }

  /// An argument of a call, its tag from string= on: `schema` of a parameter.
  place argument(const json& schema, const std::string& where, place next) {
    const auto as_json = [&](place at) { return g.text("\" string=\"false\">", at); };
    const auto as_text = [&](place at) { return g.text("\" string=\"true\">", at); };
    if (schema.is<bool>()) {
      if (!*schema.get_if<bool>()) return g.bytes({}, next);
      return g.either(as_text(words(next)), as_json(any_value_but_text(next)));
    }
    check_keywords(schema, where);
    if (const json* ref = schema.find("$ref")) {
      const auto [target, name] = resolve(*ref, where);
      if (++refs_ > grammar::most_depth)
        throw unsupported(where + ": a $ref that leads back to itself without anything between");
      const place p = argument(*target, name, next);
      --refs_;
      return p;
    }
    if (const json* list = choices(schema, where)) {
      return any_of(*list->get_if<json::array>(), [&](const json& one, std::size_t i) {
        return argument(one, where + "/anyOf/" + std::to_string(i), next);
      });
    }
    if (const json::array literals = literals_of(schema, where); !literals.empty())
      return any_of(literals, [&](const json& one, std::size_t) {
        const std::string* text = one.text();
        if (text && text->find("\uFF5C") != std::string::npos)
          throw unsupported(where + ": a value that holds U+FF5C, with which DSML writes its tags: " +
                            text::python::shown(one));
        return text ? as_text(g.text(*text, next)) : as_json(g.text(dumps(one), next));
      });
    const json::array types = types_of(schema, where);
    if (types.empty()) return argument(json(true), where, next);
    return any_of(types, [&](const json& type, std::size_t) {
      if (*type.text() != "string") return as_json(of_type(*type.text(), schema, where, next));
      const auto [least, most] = limits(schema, "minLength", "maxLength", where);
      return as_text(g.repeat(least, most, next,
                              [&](place at) { return g.call(rule("word", &schema_writer::word), at); }));
    });
  }

  /// Members of an object in the order of `properties`.
  ///   one(name, schema, where, next) -> place   a member;   between(next) -> place   what parts two of them
  template <class One, class Between>
  place members(const json& schema, const std::string& where, place next, One&& one, Between&& between) {
    const json* properties = schema.find("properties");
    const json::object none, &all = properties ? *properties->get_if<json::object>() : none;
    const std::vector<std::string> required = required_of(schema, where);
    // first: nothing has been written yet; more: something has.
    place first = next, more = next;
    for (std::size_t i = all.size(); i-- > 0;) {
      const auto& [name, of] = all[i];
      const bool must = std::find(required.begin(), required.end(), name) != required.end();
      const place here = one(name, of, where + "/properties/" + name, more), again = between(here);
      first = must ? here : g.either(here, first);
      more = must ? again : g.either(again, more);
    }
    return first;
  }

  place any_value(place next) { return g.call(rule("value", &schema_writer::write_any), next); }
  place any_object(place next) {
    const auto member = [&](place at) {
      return string({}, 0, std::nullopt, g.text(":", space(any_value(at))));
    };
    return braced("{", "}", 0, std::nullopt, next, member);
  }
  /// Any text between tags.
  place words(place next) {
    return g.repeat(0, std::nullopt, next,
                    [&](place at) { return g.call(rule("word", &schema_writer::word), at); });
  }
  place any_value_but_text(place next) {
    return g.either(
        any_object(next),
        g.either(any_array(next), g.either(number(false, next),
                                           g.either(g.text("true", next),
                                                    g.either(g.text("false", next), g.text("null", next))))));
  }

  static void check_keywords(const json& schema, const std::string& where) {
    static constexpr std::string_view known[] = {
        "type",        "enum",     "const",       "properties", "required",  "additionalProperties",
        "items",       "minItems", "maxItems",    "minLength",  "maxLength", "anyOf",
        "$ref",        "title",    "description", "default",    "examples",  "$schema",
        "$id",         "$comment", "deprecated",  "readOnly",   "writeOnly", "$defs",
        "definitions", "strict"};
    const auto* object = schema.get_if<json::object>();
    if (!object) refuse(where, "expected an object or a boolean, found " + std::string(type_name(schema)));
    for (const auto& [key, value] : *object)
      if (std::find(std::begin(known), std::end(known), key) == std::end(known))
        refuse(where, "the keyword " + text::python::shown(json(key)) + " is not supported");
    if (const json* p = schema.find("properties"); p && !p->is<json::object>())
      refuse(where, "properties: expected an object");
    for (const char* other : {"anyOf", "$ref"})
      if (schema.find(other))
        for (const char* beside : {"type", "enum", "const", "properties", "items", "anyOf"})
          if (std::string_view(other) != beside && schema.find(beside) &&
              !(std::string_view(other) == "anyOf" && std::string_view(beside) == "type"))
            refuse(where, std::string(other) + " beside " + beside + " is not supported");
  }

 private:
  [[noreturn]] static void refuse(const std::string& where, const std::string& what) {
    throw unsupported("schema " + (where.empty() ? "#" : where) + ": " + what);
  }
  /// As a prompt writes it; U+FF5C escaped.
  static std::string dumps(const json& v) {
    const std::string plain = text::python::dumps(v);
    return plain.find("\uFF5C") == std::string::npos ? plain : text::python::dumps(v, true);
  }
  template <class List, class One>
  place any_of(const List& list, One&& one) {
    place all = -1;
    for (std::size_t i = list.size(); i-- > 0;) {
      const place p = one(list[i], i);
      all = all < 0 ? p : g.either(p, all);
    }
    return all;
  }

  // ---- what a schema says

  static const json* choices(const json& schema, const std::string& where) {
    const json* list = schema.find("anyOf");
    if (!list) return nullptr;
    const auto* all = list->get_if<json::array>();
    if (!all || all->empty()) refuse(where, "anyOf: expected a list of schemas");
    return list;
  }
  static json::array literals_of(const json& schema, const std::string& where) {
    if (const json* one = schema.find("const")) return {*one};
    const json* list = schema.find("enum");
    if (!list) return {};
    const auto* all = list->get_if<json::array>();
    if (!all || all->empty()) refuse(where, "enum: expected a list of values");
    return *all;
  }
  static json::array types_of(const json& schema, const std::string& where) {
    const json* type = schema.find("type");
    if (!type) {
      if (schema.find("properties")) return {json("object")};
      if (schema.find("items")) return {json("array")};
      return {};
    }
    if (type->text()) return {*type};
    const auto* all = type->get_if<json::array>();
    if (!all || all->empty()) refuse(where, "type: expected a name or a list of names");
    for (const json& one : *all)
      if (!one.text()) refuse(where, "type: expected names");
    return *all;
  }
  static std::vector<std::string> required_of(const json& schema, const std::string& where) {
    std::vector<std::string> names;
    const json* list = schema.find("required");
    if (!list) return names;
    const auto* all = list->get_if<json::array>();
    const json* properties = schema.find("properties");
    if (!all) refuse(where, "required: expected a list of names");
    for (const json& one : *all) {
      if (!one.text()) refuse(where, "required: expected names");
      if (!properties || !properties->find(*one.text()))
        refuse(where, "required: " + text::python::shown(one) + " is not among the properties");
      names.push_back(*one.text());
    }
    return names;
  }
  static std::optional<std::size_t> count(const json& schema, const char* name, const std::string& where) {
    const json* n = schema.find(name);
    if (!n) return std::nullopt;
    const auto* digits = n->get_if<json::integer>();
    constexpr std::size_t most_digits = 9;  // far beyond most_instructions, and no overflow
    if (!digits || digits->digits[0] == '-' || digits->digits.size() > most_digits)
      refuse(where,
             std::string(name) + ": expected a number of at most 9 digits, found " + text::python::shown(*n));
    return static_cast<std::size_t>(std::stoul(digits->digits));
  }
  static std::pair<std::size_t, std::optional<std::size_t>> limits(const json& schema, const char* least,
                                                                   const char* most,
                                                                   const std::string& where) {
    const std::size_t from = count(schema, least, where).value_or(0);
    const auto to = count(schema, most, where);
    if (to && *to < from) refuse(where, std::string(most) + " is less than " + least);
    return {from, to};
  }

  /// The part of the document that a $ref names, and its place.
  std::pair<const json*, std::string> resolve(const json& ref, const std::string& where) const {
    const std::string* name = ref.text();
    if (!name || name->substr(0, 1) != "#")
      refuse(where,
             "$ref: only places in the same document (#/…) are supported, found " + text::python::shown(ref));
    const json* at = &root_;
    for (std::size_t i = 1; i < name->size();) {
      const std::size_t end = std::min(name->find('/', i + 1), name->size());
      at = (*name)[i] == '/' ? at->find(name->substr(i + 1, end - i - 1)) : nullptr;
      if (!at) refuse(where, "$ref: nothing is at " + text::python::shown(ref));
      i = end;
    }
    return {at, *name};
  }
  place rule_of(const json& ref, const std::string& where) {
    const auto [schema, name] = resolve(ref, where);
    if (const auto known = rules_.find(name); known != rules_.end()) return known->second;
    const place entry = rules_[name] = g.later();
    g.set_later(entry, value(*schema, name, g.back()));
    return entry;
  }
  place rule(const std::string& name, place (schema_writer::*write)(place)) {
    if (const auto known = rules_.find(name); known != rules_.end()) return known->second;
    const place entry = rules_[name] = g.later();
    g.set_later(entry, (this->*write)(g.back()));
    return entry;
  }

  // ---- values

  place of_type(const std::string& type, const json& schema, const std::string& where, place next) {
    if (type == "null") return g.text("null", next);
    if (type == "boolean") return g.either(g.text("true", next), g.text("false", next));
    if (type == "integer" || type == "number") return number(type == "integer", next);
    if (type == "string") {
      const auto [least, most] = limits(schema, "minLength", "maxLength", where);
      return string(schema, least, most, next);
    }
    if (type == "array") {
      const auto [least, most] = limits(schema, "minItems", "maxItems", where);
      const json* items = schema.find("items");
      return braced("[", "]", least, most, next,
                    [&](place at) { return items ? value(*items, where + "/items", at) : any_value(at); });
    }
    if (type == "object") return object(schema, where, next);
    refuse(where, "type: " + text::python::shown(json(type)) + " is not one of JSON's");
  }
  place object(const json& schema, const std::string& where, place next) {
    const json *properties = schema.find("properties"), *more = schema.find("additionalProperties");
    if (properties && !properties->get_if<json::object>()->empty()) {
      const auto member = [&](const std::string& name, const json& of, const std::string& at, place then) {
        return g.text(dumps(json(name)) + ":", space(value(of, at, then)));
      };
      return g.text("{", members(schema, where, g.text("}", next), member,
                                 [&](place at) { return g.text(",", space(at)); }));
    }
    required_of(schema, where);
    if (more && *more == json(false)) return g.text("{}", next);
    if (!more || *more == json(true)) {
      if (properties && !more) return g.text("{}", next);
      return any_object(next);
    }
    return braced("{", "}", 0, std::nullopt, next, [&](place at) {
      return string({}, 0, std::nullopt,
                    g.text(":", space(value(*more, where + "/additionalProperties", at))));
    });
  }
  /// One space or none.
  place space(place next) { return g.either(g.text(" ", next), next); }
  /// Between braces, `least` to `most` of `one`, parted by commas.
  template <class One>
  place braced(const char* open, const char* close, std::size_t least, std::optional<std::size_t> most,
               place next, One&& one) {
    const place closed = g.text(close, next);
    if (most && *most == 0) return g.text(open, closed);
    const std::size_t rest = least > 0 ? least - 1 : 0;
    std::optional<std::size_t> rest_most;
    if (most) rest_most = *most - 1;
    const place all =
        one(g.repeat(rest, rest_most, closed, [&](place at) { return g.text(",", space(one(at))); }));
    return g.text(open, least == 0 ? g.either(all, closed) : all);
  }
  place any_array(place next) {
    return braced("[", "]", 0, std::nullopt, next, [&](place at) { return any_value(at); });
  }
  place string(const json&, std::size_t least, std::optional<std::size_t> most, place next) {
    return g.text("\"", g.repeat(least, most, g.text("\"", next), [&](place at) {
      return g.call(rule("character", &schema_writer::write_character), at);
    }));
  }
  place digits(std::size_t least, std::size_t most, place next) {
    return g.repeat(least, most, next, [&](place at) { return g.range('0', '9', at); });
  }
  place number(bool integer, place next) {
    constexpr std::size_t most_digits = 15, exponent_digits = 2;  // such integers are exact in a double
    place end = next;
    if (!integer) {
      grammar::byte_set e, sign;
      e.set('e').set('E');
      sign.set('+').set('-');
      const place power = digits(1, exponent_digits, next);
      end = g.either(g.bytes(e, g.either(g.bytes(sign, power), power)), next);
      end = g.either(g.text(".", digits(1, most_digits, end)), end);
    }
    const place whole = g.either(g.text("0", end), g.range('1', '9', digits(0, most_digits - 1, end)));
    return g.either(g.text("-", whole), whole);
  }

  // ---- rules: called, so that they are there once

  place write_any(place next) {
    return g.either(string({}, 0, std::nullopt, next), any_value_but_text(next));
  }
  /// A character of a JSON string, or an escape.
  place write_character(place next) {
    grammar::byte_set plain, single, hex, first, second, d;
    for (std::size_t b = 0x20; b < 0x80; ++b) plain.set(b);
    plain.reset('"').reset('\\');
    for (const char c : std::string_view("\"\\/bfnrt")) single.set(static_cast<std::size_t>(c));
    for (const char c : std::string_view("0123456789abcdefABCDEF")) hex.set(static_cast<std::size_t>(c));
    first = hex;
    first.reset('d').reset('D');
    d.set('d').set('D');
    for (const char c : std::string_view("01234567")) second.set(static_cast<std::size_t>(c));
    const place last_two = g.bytes(hex, g.bytes(hex, next));
    const place code =
        g.either(g.bytes(first, g.bytes(hex, last_two)), g.bytes(d, g.bytes(second, last_two)));
    return g.either(g.character(plain, next),
                    g.text("\\", g.either(g.bytes(single, next), g.text("u", code))));
  }
  /// A character between tags.
  place word(place next) {
    grammar::byte_set plain;
    for (std::size_t b = 0x20; b < 0x80; ++b) plain.set(b);
    plain.set('\t').set('\n').set('\r');
    return g.character(plain, next);
  }

  const json& root_;
  std::map<std::string, place> rules_;
  place refs_ = 0;  // that argument() is inside of
};

}  // namespace detail

DSV4_INLINE grammar json_grammar(const text::json& schema) {
  detail::schema_writer w(schema);
  w.g.finish(w.value(schema, "#", w.g.end()));
  return std::move(w.g);
}

DSV4_INLINE grammar json_object_grammar() {
  const text::json nothing;
  detail::schema_writer w(nothing);
  w.g.finish(w.any_object(w.g.end()));
  return std::move(w.g);
}

}  // namespace dsv4
