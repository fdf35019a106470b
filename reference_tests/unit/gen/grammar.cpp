// SPDX-License-Identifier: MIT
// gen/grammar.hpp: what may follow and with which probability, by enumeration over a small vocabulary; what schemas and
// tools allow, by a judge that knows nothing of grammars.
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include <dsv4/gen/grammar_calls.hpp>
#include <dsv4/gen/sampler.hpp>
#include <dsv4/text/chat_parsing.hpp>
#include <dsv4/text/dsml.hpp>

#include "catch.hpp"
#include "random_model.hpp"

namespace dsv4_test::gen_grammar {
namespace {

using namespace dsv4;
using text::json;

json parsed(std::string_view s) { return text::python::loads(s); }

std::shared_ptr<const grammar> shared(grammar g) { return std::make_shared<const grammar>(std::move(g)); }

bool is_member(const grammar& g, std::string_view words) {
  grammar_machine m(std::make_shared<const grammar>(g));
  const auto s = m.next(m.start(), words);
  return s != grammar_machine::dead && m.complete(s);
}

// ---- the distribution

/// Every answer that some schema allows, one by one.
std::set<std::string> language() {
  std::set<std::string> all;
  for (const char* colon : {":", ": "})
    for (const char* a : {"1", "12", "true"}) {
      all.insert(std::string("{\"a\"") + colon + a + "}");
      for (const char* comma : {",", ", "})
        for (const char* second : {":", ": "})
          for (const char* b : {"true", "false"})
            all.insert(std::string("{\"a\"") + colon + a + comma + "\"b\"" + second + b + "}");
    }
  return all;
}

TEST_CASE("a grammar leaves the model's probabilities of what is viable, scaled, and nothing else") {
  const json schema =
      parsed(R"({"type": "object", "properties": {"a": {"enum": [1, 12, true]}, "b": {"type": "boolean"}},
                                 "required": ["a"]})");
  const std::set<std::string> members = language();
  // Pieces that overlap in several ways; some belong to no member; the last but one is an end token, the last a
  // special token, which spells nothing.
  const std::vector<std::string> pieces{"{",    "{\"a\"", "\"a\"", "\"", "a",    "b",     ":", ": ", " ",
                                        "1",    "12",     "2",     "tr", "ue",   "true}", ",", "}",  "false",
                                        ",\"b", "\":",    "x",     "z",  "true", "",      ""};
  const auto vocabulary = static_cast<index_t>(pieces.size());
  const auto end = static_cast<std::int32_t>(pieces.size() - 2);
  const auto spellings = std::make_shared<const token_spellings>(
      vocabulary, [&](std::int32_t id) { return pieces[static_cast<std::size_t>(id)]; });
  const std::vector<std::int32_t> prompt{3, 1, 4};

  sampling s{.temperature = 1};
  s.constrain = grammar_constraint(shared(json_grammar(schema)), spellings, {.prompt = 3, .end_ids = {end}});
  sampler choose(s, vocabulary, 64);
  choose.begin(0, prompt);
  distribution p(vocabulary);

  const auto viable = [&](const std::string& words) {
    const auto at = members.lower_bound(words);
    return at != members.end() && at->starts_with(words);
  };
  const auto model = [&](const std::vector<std::int32_t>& ids) {  // any function of the ids
    std::vector<double> x(pieces.size());
    std::uint64_t seed = 7;
    for (const std::int32_t id : ids) seed = splitmix64(seed, static_cast<std::uint64_t>(id));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 4 * uniform(seed, i);
    return x;
  };

  double whole = 0;  // probability of all answers that end
  std::map<std::string, double> of_member;
  std::size_t places = 0;
  constexpr double rounding = 1e-12;  // sums of 25 numbers near 1, over at most 13 steps
  std::vector<std::int32_t> ids;
  const std::function<void(const std::string&, double)> visit = [&](const std::string& words, double here) {
    ++places;
    const std::vector<double> x = model(ids);
    choose.next(view<const double, 1>(x.data(), vocabulary), p);
    double left = 0;
    for (std::int32_t t = 0; t < vocabulary; ++t) {
      const std::string& piece = pieces[static_cast<std::size_t>(t)];
      const bool may = t == end ? members.count(words) > 0 : !piece.empty() && viable(words + piece);
      if (may) left += std::exp(x[static_cast<std::size_t>(t)]);
    }
    REQUIRE(left > 0);  // (1) no dead end
    for (std::int32_t t = 0; t < vocabulary; ++t) {
      const std::string& piece = pieces[static_cast<std::size_t>(t)];
      const bool may = t == end ? members.count(words) > 0 : !piece.empty() && viable(words + piece);
      const double expected = may ? std::exp(x[static_cast<std::size_t>(t)]) / left : 0;
      REQUIRE(std::abs(p[t] - expected) <= rounding);
      if (!may) {
        REQUIRE(p[t] == 0);
        continue;
      }
      if (t == end) {
        whole += here * p[t];
        of_member[words] += here * p[t];
        continue;
      }
      const double now = p[t];
      const distribution kept = p;
      ids.push_back(t);
      choose.remember(t);
      visit(words + piece, here * now);
      choose.forget();
      ids.pop_back();
      p = kept;
    }
  };
  visit("", 1);
  CHECK(std::abs(whole - 1) < 1e-9);
  CHECK(of_member.size() == members.size());
  for (const auto& [words, probability] : of_member) CHECK(members.count(words) == 1);
  CHECK(places > 1000);
}

TEST_CASE("reasoning is free, but does not end the answer; the grammar begins behind </think>") {
  const std::vector<std::string> pieces{"a", "{", "}", "", ""};
  const auto spellings = std::make_shared<const token_spellings>(
      5, [&](std::int32_t id) { return pieces[static_cast<std::size_t>(id)]; });
  grammar g;
  g.finish(g.text("{}", g.end()));
  const grammar_constraint limit(shared(std::move(g)), spellings, {.prompt = 1, .end_ids = {4}, .after = 3});
  const auto allowed = [&](std::vector<std::int32_t> ids) {
    std::vector<double> x(5, 0.0);
    limit(ids, x);
    std::string out;
    for (std::size_t i = 0; i < 5; ++i) out += x[i] == 0 ? '1' : '0';
    return out;
  };
  CHECK(allowed({0}) == "11110");
  CHECK(allowed({0, 2, 0}) == "11110");
  CHECK(allowed({0, 2, 3}) == "01000");
  CHECK(allowed({0, 2, 3, 1}) == "00100");
  CHECK(allowed({0, 2, 3, 1, 2}) == "00001");
  CHECK(allowed({0, 2, 0}) == "11110");  // taken back
}

// ---- schemas

/// Whether `v` satisfies `schema`, by the words of the standard.
bool satisfies(const json& v, const json& schema, const json& root) {
  if (const bool* all = schema.get_if<bool>()) return *all;
  if (const json* ref = schema.find("$ref")) {
    const json* at = &root;
    std::string name = ref->text()->substr(1);
    while (!name.empty()) {
      const std::size_t to = std::min(name.find('/', 1), name.size());
      at = at->find(name.substr(1, to - 1));
      name = name.substr(to);
    }
    return satisfies(v, *at, root);
  }
  const auto characters = [](const std::string& s) {
    return static_cast<double>(std::count_if(
        s.begin(), s.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
  };
  const auto number = [](const json& n) {
    return n.is<double>() ? *n.get_if<double>() : std::stod(n.get_if<json::integer>()->digits);
  };
  const auto within = [&](const char* least, const char* most, double n) {
    return (!schema.find(least) || n >= number(*schema.find(least))) &&
           (!schema.find(most) || n <= number(*schema.find(most)));
  };
  if (const json* list = schema.find("anyOf")) {
    bool any = false;
    for (const json& one : *list->get_if<json::array>()) any = any || satisfies(v, one, root);
    if (!any) return false;
  }
  if (const json* list = schema.find("enum")) {
    const auto& all = *list->get_if<json::array>();
    if (std::find(all.begin(), all.end(), v) == all.end()) return false;
  }
  if (const json* one = schema.find("const"); one && !(*one == v)) return false;
  if (const json* type = schema.find("type")) {
    const auto is = [&](const json& t) {
      const std::string& n = *t.text();
      return n == "null"      ? v.is_null()
             : n == "boolean" ? v.is<bool>()
             : n == "string"  ? v.is<std::string>()
             : n == "integer" ? v.is<json::integer>()
             : n == "number"  ? v.is<json::integer>() || v.is<double>()
             : n == "array"   ? v.is<json::array>()
                              : v.is<json::object>();
    };
    bool any = false;
    if (type->text())
      any = is(*type);
    else
      for (const json& t : *type->get_if<json::array>()) any = any || is(t);
    if (!any) return false;
  }
  if (const std::string* s = v.text(); s && !within("minLength", "maxLength", characters(*s))) return false;
  if (const auto* a = v.get_if<json::array>()) {
    if (!within("minItems", "maxItems", static_cast<double>(a->size()))) return false;
    if (const json* items = schema.find("items"))
      for (const json& one : *a)
        if (!satisfies(one, *items, root)) return false;
  }
  if (const auto* o = v.get_if<json::object>()) {
    const json* properties = schema.find("properties");
    if (const json* list = schema.find("required"))
      for (const json& name : *list->get_if<json::array>())
        if (!v.find(*name.text())) return false;
    for (const auto& [key, value] : *o) {
      const json* known = properties ? properties->find(key) : nullptr;
      const json* more = schema.find("additionalProperties");
      if (known ? !satisfies(value, *known, root) : more && !satisfies(value, *more, root)) return false;
    }
  }
  return true;
}

/// A vocabulary of all bytes and some longer pieces, from which answers are drawn: the longer they get, the likelier
/// is what closes.  Returns the text, or nothing if it did not end.
std::optional<std::string> drawn(const std::shared_ptr<const grammar>& g, std::uint64_t seed) {
  static const std::vector<std::string> pieces{"</｜DSML｜parameter>",
                                               "\": ",
                                               ", \"",
                                               "\"}",
                                               "true",
                                               "null",
                                               "é",
                                               "中",
                                               "\xF0\x9F",
                                               "\\u00",
                                               "</",
                                               "<",
                                               "invoke",
                                               "parameter",
                                               "\xEF\xBD",
                                               "\n\n",
                                               "name=\"",
                                               ""};
  const auto vocabulary = static_cast<index_t>(256 + pieces.size());
  const std::int32_t end = static_cast<std::int32_t>(vocabulary) - 1;
  static const auto spellings = std::make_shared<const token_spellings>(vocabulary, [&](std::int32_t id) {
    return id < 256 ? std::string(1, static_cast<char>(id)) : pieces[static_cast<std::size_t>(id) - 256];
  });
  const grammar_constraint limit(g, spellings, {.prompt = 0, .end_ids = {end}});
  dsv4_test::integers r{seed};
  std::vector<std::int32_t> ids;
  std::string words;
  std::vector<double> x(static_cast<std::size_t>(vocabulary));
  constexpr std::size_t most = 4000;
  while (ids.size() < most) {
    for (double& v : x) v = 0.1 * r.unit();
    const double pull = static_cast<double>(ids.size()) / 20;
    x['"'] += 2 * pull;
    for (const char c : std::string_view("]}:")) x[static_cast<std::size_t>(c)] += pull;
    x[256] += 3 * pull;  // the end of a parameter
    x[static_cast<std::size_t>(end)] += 9 + pull;
    if (r.below(2) == 0) x['\\'] += 1;
    limit(ids, x);
    sampling s{.temperature = 0.3, .seed = r.next()};
    sampler choose(s, vocabulary);
    const std::int32_t id = choose(view<const double, 1>(x.data(), vocabulary));
    if (id == end) return words;
    ids.push_back(id);
    words += (*spellings)[id];
  }
  return std::nullopt;
}

struct schema_case {
  const char* name;
  const char* schema;
};
// The constructs that published collections of tools are made of.
constexpr schema_case objects[] = {
    {"strings",
     R"({"type":"object","properties":{"city":{"type":"string"},"unit":{"type":"string","enum":["celsius","fahrenheit"]}},"required":["city"]})"},
    {"unicode",
     R"({"type":"object","properties":{"größe":{"enum":["klein","groß","日本"]},"氏名":{"type":"string","maxLength":6}},"required":["größe","氏名"]})"},
    {"numbers",
     R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"number"}},"required":["a","b"]})"},
    {"nested",
     R"({"type":"object","properties":{"where":{"type":"object","properties":{"lat":{"type":"number"},"lon":{"type":"number"},"name":{"type":"string"}},"required":["lat","lon"],"additionalProperties":false}},"required":["where"]})"},
    {"arrays",
     R"({"type":"object","properties":{"ids":{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":4},"tags":{"type":"array","items":{"type":"string"}}},"required":["ids","tags"]})"},
    {"defaults",
     R"({"type":"object","properties":{"n":{"type":"integer","default":10,"description":"how many"},"sort":{"type":"boolean","default":false}}})"},
    {"optional",
     R"({"type":"object","properties":{"a":{"const":1},"b":{"const":2},"c":{"const":3}},"required":["b"]})"},
    {"nullable",
     R"({"type":"object","properties":{"a":{"type":["string","null"]},"b":{"anyOf":[{"type":"integer"},{"type":"null"}]}},"required":["a","b"]})"},
    {"anyOf objects",
     R"({"type":"object","properties":{"shape":{"anyOf":[{"type":"object","properties":{"kind":{"const":"circle"},"r":{"type":"number"}},"required":["kind","r"]},{"type":"object","properties":{"kind":{"const":"square"},"side":{"type":"number"}},"required":["kind","side"]}]}},"required":["shape"]})"},
    {"recursive",
     R"({"type":"object","properties":{"tree":{"$ref":"#/$defs/node"}},"required":["tree"],"$defs":{"node":{"type":"object","properties":{"value":{"type":"integer"},"children":{"type":"array","items":{"$ref":"#/$defs/node"}}},"required":["value"]}}})"},
    {"mixed enum",
     R"({"type":"object","properties":{"v":{"enum":["a",1,true,null,[1,2],{"k":"v"}]}},"required":["v"]})"},
    {"map",
     R"({"type":"object","properties":{"m":{"type":"object","additionalProperties":{"type":"integer"}}},"required":["m"]})"},
    {"anything", R"({"type":"object","properties":{"x":{}},"required":["x"]})"},
    {"matrix",
     R"({"type":"object","properties":{"m":{"type":"array","items":{"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":3},"minItems":1,"maxItems":3}},"required":["m"]})"},
    {"lengths",
     R"({"type":"object","properties":{"code":{"type":"string","minLength":3,"maxLength":5}},"required":["code"]})"},
    {"nothing", R"({"type":"object","properties":{}})"},
    {"quotes",
     R"({"type":"object","properties":{"q":{"enum":["say \"hi\"","back\\slash","<tag>","line\nend"]}},"required":["q"]})"},
    {"array of objects",
     R"({"type":"object","properties":{"items":{"type":"array","items":{"type":"object","properties":{"sku":{"type":"string"},"n":{"type":"integer"}},"required":["sku","n"]},"minItems":1}},"required":["items"]})"},
};
constexpr std::uint64_t draws_each = 12;

TEST_CASE("every answer by a schema is JSON that satisfies it") {
  std::size_t ended = 0, of = 0;
  for (const schema_case& one : objects) {
    const json schema = parsed(one.schema);
    const auto g = shared(json_grammar(schema));
    std::set<std::string> different;
    for (std::uint64_t seed = 0; seed < draws_each; ++seed, ++of) {
      const auto words = drawn(g, seed + 1);
      INFO(one.name << ": " << words.value_or("(no end)"));
      REQUIRE(words);
      CHECK(satisfies(parsed(*words), schema, schema));
      different.insert(*words);
      ++ended;
    }
    INFO(one.name);
    CHECK((different.size() > 1 || std::string_view(one.name) == "nothing"));
  }
  CHECK(ended == of);
}

TEST_CASE(
    "every call by the tools is one that the released parser reads, with arguments that satisfy the schema") {
  for (const bool strict_only : {false, true}) {
    std::size_t read = 0;
    for (const schema_case& one : objects) {
      const json schema = parsed(one.schema);
      const json::array tools{json::object{{"name", "f"}, {"parameters", schema}},
                              json::object{{"name", "other"}}};
      const auto g = shared(calls_grammar(tools, {.may_answer = strict_only}));
      for (std::uint64_t seed = 0; seed < draws_each; ++seed) {
        const auto words = drawn(g, seed + 100);
        INFO(one.name << ": " << words.value_or("(no end)"));
        REQUIRE(words);
        const text::chat_message m =
            text::parse_completion(*words + std::string(text::eos_token), text::thinking_mode::chat);
        if (!strict_only) REQUIRE(!m.tool_calls.empty());
        for (const text::tool_call& call : m.tool_calls) {
          const json arguments = text::python::loads(*call.arguments.text(), text::surrogates::allowed);
          INFO(call.name << text::python::dumps(arguments));
          CHECK((call.name == "f" || call.name == "other"));
          if (call.name == "f")
            CHECK(satisfies(arguments, schema, schema));
          else
            CHECK(arguments == json(json::object{}));
        }
        ++read;
      }
    }
    CHECK(read == std::size(objects) * draws_each);
  }
}

TEST_CASE("what encoders of calls write is a member") {
  const json schema = parsed(
      R"({"type":"object","properties":{"city":{"type":"string"},"n":{"type":"integer"}},"required":["city"]})");
  const json::array tools{json::object{{"name", "weather"}, {"parameters", schema}}};
  const auto written = [](std::vector<text::tool_call> calls) {
    text::prompt p;
    text::dsml::write_calls(p, calls);
    return "\n\n" + p.text;
  };
  const text::tool_call a{"weather", json(R"({"city": "Köln </a> <b", "n": 3})")},
      b{"weather", json(R"({"city": ""})")};
  for (const bool may_answer : {false, true}) {
    const grammar g = calls_grammar(tools, {.may_answer = may_answer});
    CHECK(is_member(g, written({a})));
    CHECK(is_member(g, written({a, b})));
    CHECK(is_member(g, "Let me see.\n" + written({b})) == may_answer);
    CHECK(is_member(g, "Only words.") == may_answer);
    CHECK_FALSE(is_member(g, written({{"weather", json(R"({"n": 3})")}})));
    CHECK_FALSE(is_member(g, written({{"weather", json(R"({"city": "x", "m": 3})")}})));
    CHECK_FALSE(is_member(g, written({{"other", json(R"({"city": "x"})")}})));
  }
  const grammar one = calls_grammar(tools, {.one = true});
  CHECK(is_member(one, written({a})));
  CHECK_FALSE(is_member(one, written({a, b})));
}

TEST_CASE("members and others of JSON grammars") {
  const grammar any = json_grammar(json(true));
  for (const char* yes :
       {"1", "-0.5e+10", "\"\\u00e9\\n\"", "[]", "{}", "[1, 2,3]", "{\"a\": [true,null]}", "\"日\""})
    CHECK(is_member(any, yes));
  for (const char* no : {"", "01", "1.", "+1", "tru", "[1,]", "{\"a\"}", "\"\\ud800\"", "\"\xC3\"",
                         "\"\xED\xA0\x80\"", "\"\n\"", " 1", "1 ", "\"｜\"", "1234567890123456"})
    CHECK_FALSE(is_member(any, no));
  std::string deep(60, '['), deeper(70, '[');
  CHECK(is_member(any, deep + std::string(60, ']')));
  CHECK_FALSE(is_member(any, deeper + std::string(70, ']')));
  // Near the deepest level there is still a way out of whatever was begun.
  grammar_machine m(shared(json_grammar(json(true))));
  auto s = m.start();
  for (int i = 0; i < 63; ++i)
    if (const auto deeper_still = m.next(s, "["); deeper_still != grammar_machine::dead) s = deeper_still;
  std::size_t steps = 0;
  for (bool moved = true; moved && !m.complete(s) && steps < 1000; ++steps) {
    moved = false;
    for (const char* out : {"]", "1", "\"", "}", ":"})
      if (const auto t = m.next(s, out); !moved && t != grammar_machine::dead) s = t, moved = true;
  }
  CHECK(m.complete(s));
  CHECK(is_member(json_object_grammar(), "{\"a\": 1}"));
  CHECK_FALSE(is_member(json_object_grammar(), "[1]"));
}

TEST_CASE("what a schema asks for and grammars cannot do is refused by name") {
  const auto refused = [](const char* schema, const char* named) {
    try {
      json_grammar(parsed(schema));
      return std::string("accepted");
    } catch (const unsupported& e) {
      return std::string(e.what()).find(named) != std::string::npos ? std::string("named")
                                                                    : std::string(e.what());
    }
  };
  CHECK(refused(R"({"type":"string","pattern":"a+"})", "pattern") == "named");
  CHECK(refused(R"({"type":"object","properties":{"a":{"type":"string","format":"date"}}})",
                "#/properties/a") == "named");
  CHECK(refused(R"({"oneOf":[{"type":"string"}]})", "oneOf") == "named");
  CHECK(refused(R"({"type":"integer","minimum":1})", "minimum") == "named");
  CHECK(refused(R"({"$ref":"http://example.com/x"})", "same document") == "named");
  CHECK(refused(R"({"$ref":"#/$defs/none"})", "nothing is at") == "named");
  CHECK(refused(R"({"type":"object","required":["a"]})", "required") == "named");
  CHECK(refused(R"({"type":"text"})", "text") == "named");
  CHECK(refused(R"({"type":"string","minLength":5,"maxLength":4})", "maxLength") == "named");
  CHECK(
      refused(
          R"({"type":"array","items":{"type":"array","items":{"type":"array","items":{"type":"string","maxLength":1000},"maxItems":1000},"maxItems":1000},"maxItems":1000})",
          "instructions") == "named");
  // No text satisfies these.
  CHECK(refused("false", "no text") == "named");
  CHECK(
      refused(
          R"({"$ref":"#/$defs/a","$defs":{"a":{"type":"array","items":{"$ref":"#/$defs/a"},"minItems":1}}})",
          "no text") == "named");
  CHECK(refused(R"({"$ref":"#"})", "no text") == "named");
  CHECK(refused(R"({"enum":[]})", "enum") == "named");
  CHECK_THROWS_AS(calls_grammar({}), unsupported);
}

}  // namespace

}  // namespace dsv4_test::gen_grammar
