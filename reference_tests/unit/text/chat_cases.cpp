// SPDX-License-Identifier: MIT
// The released encoder's own cases, and properties over all of them.
#include "chat_cases.hpp"

#include <algorithm>

#include "catch.hpp"
#include "dsv4/text/dsml.hpp"

namespace dsv4::text {
namespace {

/// What we make of a case: {"expected": ...} or {"error": ...}; the reason must say something.
json answer(const json& c) {
  const json& input = *c.find("input");
  try {
    if (text_at(c, "kind") == "encode") return json::object{{"expected", encode(read_request(input)).text}};
    return json::object{{"expected", to_json(parse_completion(input))}};
  } catch (const refused& e) {
    CHECK(std::string_view(e.what()).size() > 10);
    return json::object{{"error", e.kind}};
  } catch (const unsupported& e) {
    CHECK_THAT(e.what(), Catch::Matchers::ContainsSubstring("role"));
    return json::object{{"error", "NotImplementedError"}};
  }
}

TEST_CASE("304 cases of the released encoder, byte for byte, refusals by kind", "[chat]") {
  int encoded = 0, parsed = 0, errors = 0;
  for (const json& c : released_cases()) {
    INFO(text_at(c, "name"));
    const json* expected = c.find("expected");
    const json want =
        expected ? json::object{{"expected", *expected}} : json::object{{"error", *c.find("error")}};
    CHECK(python::dumps(answer(c), true) == python::dumps(want, true));
    ++(!expected ? errors : text_at(c, "kind") == "encode" ? encoded : parsed);
  }
  CHECK(encoded == 179);
  CHECK(parsed == 72);
  CHECK(errors == 53);
}

TEST_CASE("the official conversations: what follows an opening think parses to the message", "[chat]") {
  int turns = 0;
  for (const json& c : released_cases()) {
    if (!text_at(c, "name").starts_with("official") ||
        text_at(*c.find("input"), "thinking_mode") != "thinking")
      continue;
    std::vector<chat_message> assistants;
    for (const chat_message& m : read_request(*c.find("input")).messages)
      if (m.role == "assistant") assistants.push_back(m);
    const std::string text = text_at(c, "expected"),
                      opening = std::string(assistant_token) + std::string(think_token);
    std::size_t message = 0;
    for (std::size_t at = text.find(assistant_token); at != text.npos;
         at = text.find(assistant_token, at + 1), ++message) {
      if (!std::string_view(text).substr(at).starts_with(opening)) continue;  // without its reasoning
      const std::size_t from = at + opening.size(), to = text.find(eos_token, from) + eos_token.size();
      const chat_message m =
          parse_completion(std::string_view(text).substr(from, to - from), thinking_mode::thinking);
      const chat_message& want = assistants.at(message);
      CHECK(m.content == want.content);
      CHECK(m.reasoning_content == want.reasoning_content);
      REQUIRE(m.tool_calls.size() == want.tool_calls.size());
      for (std::size_t i = 0; i < m.tool_calls.size(); ++i) {
        CHECK(m.tool_calls[i].name == want.tool_calls[i].name);
        CHECK(m.tool_calls[i].arguments == want.tool_calls[i].arguments);
      }
      ++turns;
    }
  }
  CHECK(turns == 5);
}

/// Messages that say every special token in every place where a message has words.
void say_special_tokens(std::vector<chat_message>& messages) {
  std::string all;
  for (const std::string_view t : {bos_token, eos_token, user_token, assistant_token, reminder_token,
                                   think_token, end_think_token, dsml_token})
    all += t;
  for (const quick_task& q : quick_tasks) all += q.token;
  for (chat_message& m : messages) {
    if (m.role != "developer" || !m.content.empty()) m.content += all;
    m.reasoning_content += all;
    for (tool_call& c : m.tool_calls) {
      c.name += all;
      json::object arguments = dsml::arguments_of(c);
      for (auto& [key, value] : arguments)
        key += all, value = value.text() ? json(*value.text() + all) : value;
      c.arguments = python::dumps(arguments);
    }
    for (json& tool : m.tools) tool = json::object{{"name", all}, {"was", tool}};
    if (truthy(m.response_format)) m.response_format = json::object{{all, m.response_format}};
  }
}

TEST_CASE("segments: they join to the prompt, controls are special tokens, and messages add none", "[chat]") {
  int prompts = 0;
  for (const json& c : released_cases()) {
    if (text_at(c, "kind") != "encode" || c.find("error")) continue;
    INFO(text_at(c, "name"));
    chat_request request = read_request(*c.find("input"));
    const prompt p = encode(request);
    std::string joined;
    bool text_before = false;
    for (const prompt_segment& s : p.segments) {
      CHECK_FALSE(s.text.empty());
      CHECK_FALSE((text_before && !s.control));
      text_before = !s.control;
      joined += s.text;
    }
    CHECK(joined == p.text);

    say_special_tokens(request.messages);
    say_special_tokens(request.context);
    const prompt hostile = encode(request);
    CHECK(hostile.text.size() > p.text.size());
    CHECK(controls(hostile) == controls(p));
    ++prompts;
  }
  CHECK(prompts == 179);
}

TEST_CASE("a prompt in two pieces is the whole prompt", "[chat]") {
  // Where reasoning stays, and neither users nor tools are joined across the cut, nothing before it changes.
  int cuts = 0;
  for (const json& c : released_cases()) {
    if (text_at(c, "kind") != "encode" || c.find("error")) continue;
    const chat_request whole = read_request(*c.find("input"));
    encode_options options = whole.options;
    options.drop_thinking = false;
    if (!whole.context.empty()) continue;
    const std::span<const chat_message> all(whole.messages);
    const std::string text = encode_messages(all, options).text;
    for (std::size_t cut = 1; cut < all.size(); ++cut) {
      // What asks for an answer depends on the next role, as it does at the end.
      if (all[cut].role != "assistant") continue;
      CHECK(encode_messages(all.first(cut), options).text +
                encode_messages(all.subspan(cut), options, all.first(cut)).text ==
            text);
      ++cuts;
    }
  }
  CHECK(cuts > 300);
}

}  // namespace
}  // namespace dsv4::text
