// SPDX-License-Identifier: MIT
// The rules of the prompt one by one, refusals, and the way back.
#include <random>

#include "catch.hpp"
#include "chat_cases.hpp"

namespace dsv4::text {
namespace {

using Catch::Matchers::ContainsSubstring;

/// `text` with short names for the special tokens: ^ begin, $ end, U: user, A: assistant, R: reminder, ( think, ) end of thinking.
std::string brief(std::string text) {
  const std::pair<std::string_view, std::string_view> names[] = {
      {bos_token, "^"},       {eos_token, "$"},   {user_token, "U:"},     {assistant_token, "A:"},
      {reminder_token, "R:"}, {think_token, "("}, {end_think_token, ")"}, {dsml_token, "|"}};
  for (const auto& [token, name] : names)
    for (std::size_t at = text.find(token); at != text.npos; at = text.find(token, at + name.size()))
      text.replace(at, token.size(), name);
  return text;
}

std::string brief_prompt(std::string_view input) { return brief(encode_text(input).text); }

/// The prompt of messages in the fields of `more`.
std::string chat(const std::string& messages, const std::string& more = "") {
  return brief_prompt("{\"messages\":[" + messages + "]" + (more.empty() ? "" : "," + more) + "}");
}

const std::string u = R"({"role":"user","content":"u"})",
                  a = R"({"role":"assistant","reasoning_content":"r","content":"a"})",
                  s = R"({"role":"system","content":"s"})", d = R"({"role":"developer","content":"d"})",
                  l = R"({"role":"latest_reminder","content":"l"})", chat_mode = R"("thinking_mode":"chat")",
                  keep = R"("drop_thinking":false)";

TEST_CASE("thinking modes", "[chat]") {
  CHECK(chat(u) == "^U:uA:(");
  CHECK(chat(u, chat_mode) == "^U:uA:)");
  CHECK(chat(u, R"("reasoning_effort":"high")") == chat(u));
  CHECK(chat(s + "," + u + "," + a, chat_mode) == "^sU:uA:)a$");
  CHECK(chat(u + "," + a) == "^U:uA:(r)a$");
  // Reasoning before the last question goes, the closing tag in its place comes from the question.
  CHECK(chat(u + "," + a + "," + u) == "^U:uA:)a$U:uA:(");
  CHECK(chat(u + "," + a + "," + u, keep) == "^U:uA:(r)a$U:uA:(");
  CHECK(chat(u + R"(,{"role":"assistant","content":null})") == "^U:uA:()$");
  const std::string max = R"("reasoning_effort":"max")";
  CHECK_THAT(chat(s + "," + u, max), ContainsSubstring("^Reasoning Effort: Absolute maximum") &&
                                         ContainsSubstring("left unchecked.\n\nsU:uA:("));
  CHECK(chat(u, max + "," + chat_mode) == chat(u, chat_mode));
  CHECK(chat(u, max + R"(,"context":[)" + s + "]") == "U:uA:(");
}

TEST_CASE("developers, reminders, and who is dropped", "[chat]") {
  CHECK(chat(d + "," + a + "," + u) ==
        "^a$U:uA:(");  // a developer before the last question goes with its answer's reasoning
  CHECK(chat(d + "," + a + "," + u, keep) == "^U:dA:(r)a$U:uA:(");
  CHECK(chat(l + "," + u) == "^R:lU:uA:(");
  CHECK(chat(u + "," + l + "," + a) == "^U:uA:(R:lr)a$");  // the question ends before the reminder
  CHECK(chat(R"({"role":"robot"},)" + u) == "^U:uA:(");    // dropped like a developer
  CHECK_THROWS_WITH(chat(R"({"role":"robot"},)" + u, chat_mode),
                    ContainsSubstring("messages[0]: role \"robot\""));
  CHECK(chat(R"({"role":"system","content":null},{"role":"latest_reminder"})") == "^R:None");
}

TEST_CASE("users and tools are joined, results sorted by the calls", "[chat]") {
  CHECK(chat(u + "," + u) == "^U:u\n\nuA:(");
  const std::string calls =
      R"({"role":"assistant","tool_calls":[{"id":"x","function":{"name":"f","arguments":"{}"}},
                                {"function":{"id":"y","name":"g","arguments":"{}"}}]})";
  const auto result = [](const std::string& id) {
    return R"({"role":"tool","tool_call_id":")" + id + R"(","content":")" + id + "\"}";
  };
  CHECK_THAT(chat(u + "," + calls + "," + result("y") + "," + u + "," + result("x")),
             ContainsSubstring("$U:<tool_result>x</tool_result>\n\nu\n\n<tool_result>y</tool_result>A:("));
  CHECK_THAT(chat(u + "," + calls + "," + result("y") + "," + result("?") + "," + result("x")),
             ContainsSubstring("?</tool_result>\n\n<tool_result>x</tool_result>\n\n<tool_result>y"));
  CHECK(chat(R"({"role":"tool","content":[{"type":"text","text":"1"},{"type":"image_url"},{"text":"2"}]})") ==
        "^U:<tool_result>1\n\n[Unsupported image_url]\n\n[Unsupported None]</tool_result>A:(");
  CHECK(chat(R"({"role":"tool","content":null},{"role":"tool","content":1.0})") ==
        "^U:<tool_result>None</tool_result>\n\n<tool_result>1.0</tool_result>A:(");
}

TEST_CASE("tasks, and answers without an end", "[chat]") {
  const auto asks = [](const std::string& task) {
    return R"({"role":"user","content":"u","task":")" + task + "\"}";
  };
  CHECK(chat(asks("title")) == "^U:u<｜title｜>");
  CHECK(chat(asks("action")) == "^U:uA:(<｜action｜>");
  CHECK(chat(asks("action") + "," + a, chat_mode) == "^U:uA:)<｜action｜>a$");
  CHECK(chat(asks("query") + "," + a) == "^U:u<｜query｜>a$");  // an answer to a task has no reasoning
  CHECK(chat(asks("query") + "," + u) ==
        "^U:uU:uA:(");  // users are not joined to a task, and it is not asked
  CHECK_THROWS_WITH(chat(asks("dance")), ContainsSubstring("messages[0]: task \"dance\", expected action"));
  CHECK(chat(u + R"(,{"role":"assistant","content":"a","wo_eos":true})") == "^U:uA:()a");
}

TEST_CASE("tools and response formats", "[chat]") {
  const std::string tool = R"("tools":[{"type":"function","function":{"name":"f","é":1.0}}])",
                    system = R"({"role":"system","content":"s",)" + tool + "}";
  const std::string p = chat(system + "," + u + "," + a + "," + u);
  CHECK_THAT(p, ContainsSubstring("^s\n\n## Tools\n\nYou have") &&
                    ContainsSubstring(
                        "### Available Tool Schemas\n\n{\"name\": \"f\", \"é\": 1.0}\n\nYou MUST strictly"));
  CHECK_THAT(p, ContainsSubstring("tool calls.\nU:uA:(r)a$U:uA:("));  // tools keep all reasoning
  CHECK(chat(s + "," + u + "," + a + "," + u, tool) == p);            // as a request has them
  CHECK(chat(u, tool).starts_with("^\n\n## Tools"));
  CHECK(chat(R"({"role":"user","content":"u",)" + tool + "}") == "^U:uA:(");  // a user's are ignored
  CHECK(chat(R"({"role":"developer","content":"d","response_format":{"type":"json_object"}})") ==
        "^U:d\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to "
        "reply:\n{\"type\": \"json_object\"}A:(");
}

TEST_CASE("calls in DSML", "[chat]") {
  const auto call = [](const std::string& arguments) {
    const std::string p = chat(
        u + R"(,{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":)" + arguments + "}}]}",
        chat_mode);
    const std::string before = "^U:uA:)\n\n<|tool_calls>\n<|invoke name=\"f\">\n",
                      after = "\n</|invoke>\n</|tool_calls>$";
    REQUIRE(p.starts_with(before));
    REQUIRE(p.ends_with(after));
    return p.substr(before.size(), p.size() - before.size() - after.size());
  };
  const auto parameter = [](const std::string& key, const char* is_string, const std::string& value) {
    return "<|parameter name=\"" + key + "\" string=\"" + is_string + "\">" + value + "</|parameter>";
  };
  CHECK(call(R"("{}")") == "");
  CHECK(call(R"("{\"k\": \"a\\nb\", \"n\": [1, 1e20, null], \"k\": \"last\"}")") ==
        parameter("k", "true", "last") + "\n" + parameter("n", "false", "[1, 1e+20, null]"));
  CHECK(call(R"("not json {")") == parameter("arguments", "true", "not json {"));
  CHECK(call(R"({"k": 1})") == parameter("arguments", "false", "{\"k\": 1}"));
  CHECK(call("null") == parameter("arguments", "false", "null"));
  CHECK(call("\"" + std::string(2000, '[') + "\"") == parameter("arguments", "true", std::string(2000, '[')));
  CHECK_THROWS_WITH(
      call(R"("[1]")"),
      ContainsSubstring("arguments of tool call \"f\": expected a JSON object, found a list: [1]"));
}

TEST_CASE("every refusal says where, what was expected and what was found", "[chat]") {
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {R"({})", "KeyError", "input: field 'messages' is missing"},
      {R"({"messages":{}})", "TypeError", "messages: expected a list, found an object: {}"},
      {R"([1])", "AttributeError", "messages[0]: expected an object, found a number: 1"},
      {R"([{"role":["user"]}])", "TypeError",
       "messages[0].role: expected a string, found a list: [\"user\"]"},
      {R"([{"role":"user","content":[{"type":"text","text":"u"}]}])", "TypeError",
       "messages[0].content: expected a string, found a list"},
      {R"([{"role":"user","content":null}])", "TypeError",
       "messages[0].content: expected a string, found null"},
      {R"([{"role":"developer","content":1}])", "TypeError",
       "messages[0].content: expected a string, found a number: 1"},
      {R"([{"role":"developer","content":""}])", "AssertionError",
       "messages[0]: a developer message needs content"},
      {R"([{"role":"system","tools":[{}]}])", "KeyError",
       "messages[0].tools[0]: field 'function' is missing"},
      {R"([{"role":"system","tools":{"a":1}}])", "TypeError",
       "messages[0].tools: expected a list, found an object"},
      {R"([{"role":"assistant","tool_calls":[{"function":{"name":"f"}}]}])", "KeyError",
       "messages[0].tool_calls[0].function: field 'arguments' is missing"},
      {R"([{"role":"tool","content":["x"]}])", "AttributeError",
       "messages[0].content[0]: expected an object, found a string"},
      {R"([{"role":"tool","content":[{"type":"text","text":1}]}])", "TypeError",
       "messages[0].content[0].text: expected a string, found a number"},
      {R"({"messages":[],"context":[{"role":"user","content":1}]})", "TypeError", "context[0].content"},
      {R"({"messages":[],"thinking_mode":"fast"})", "AssertionError",
       "thinking_mode is \"fast\", expected \"chat\" or \"thinking\""},
      {R"({"messages":[],"reasoning_effort":"low"})", "AssertionError",
       "reasoning_effort is \"low\", expected \"high\", \"max\" or null"}};
  for (const auto& [input, kind, what] : cases) {
    INFO(input);
    try {
      encode_text(input);
      FAIL("not refused");
    } catch (const refused& e) {
      CHECK(std::string(e.kind) == kind);
      CHECK_THAT(e.what(), ContainsSubstring(what));
    }
  }
  CHECK_THROWS_AS(encode_text(R"([{"role":"system","content":{"a":1}}])"), unsupported);
  CHECK_THROWS_AS(encode_text(R"([{"content":"x"}])"), unsupported);
}

// ---- completions

std::string parsed(std::string_view text, thinking_mode mode = thinking_mode::chat) {
  return python::dumps(to_json(parse_completion(text, mode)));
}

const std::string eos(eos_token), begin = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n",
                                  end = "\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

/// The calls of a completion that has the parameters `inside`.
std::string arguments(const std::string& inside) {
  return *parse_completion(begin + inside + end, thinking_mode::chat).tool_calls.at(0).arguments.text();
}

TEST_CASE("completions: reasoning, content, calls", "[chat]") {
  CHECK(parsed("a" + eos) ==
        R"({"role": "assistant", "content": "a", "reasoning_content": "", "tool_calls": []})");
  CHECK(parsed("r</think>a\n" + eos, thinking_mode::thinking) ==
        R"({"role": "assistant", "content": "a\n", "reasoning_content": "r", "tool_calls": []})");
  CHECK(arguments("") == "{}");
  CHECK(arguments(R"(<｜DSML｜parameter name="a" string="true">"x"</｜DSML｜parameter>)"
                  "\n"
                  R"(<｜DSML｜parameter name="b" string="false">[1,oops</｜DSML｜parameter>)") ==
        R"({"a": "\"x\"", "b": [1,oops})");
  // What the released parser lets pass: no end, broken off, white space of Unicode, a line end before a tag.
  CHECK(parsed("a\n\n<｜DSML｜tool_calls") ==
        R"({"role": "assistant", "content": "a", "reasoning_content": "", "tool_calls": []})");
  CHECK(parse_completion("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke\xe3\x80\x80name=\"f\">\n",
                         thinking_mode::chat)
            .tool_calls.at(0)
            .name == "f");
  CHECK(arguments("<｜DSML｜parameter name=\"a\" string=\"true\">x<\n/｜DSML｜parameter>") ==
        R"({"a": "x"})");
  CHECK(arguments("<｜DSML｜parameter name=\"a\" string=\"b\" string=\"true\">x</｜DSML｜parameter>") ==
        R"({"a\" string=\"b": "x"})");
}

TEST_CASE("completions that are refused", "[chat]") {
  const auto kind = [](const std::string& text, thinking_mode mode, const char* what) -> std::string {
    try {
      parse_completion(text, mode);
    } catch (const refused& e) {
      CHECK_THAT(e.what(), ContainsSubstring(what));
      return e.kind;
    }
    return "accepted";
  };
  constexpr auto think = thinking_mode::thinking, plain = thinking_mode::chat;
  CHECK(kind("a", plain, "byte 1: no end-of-sentence token") == "AssertionError");
  CHECK(kind("a" + eos, think, "no </think>") == "AssertionError");
  CHECK(kind(begin + end, think, "no </think>") == "AssertionError");
  CHECK(kind("a" + eos + "b", plain, "text after the end-of-sentence token") == "AssertionError");
  CHECK(kind(begin + end + "x" + eos, plain, "text after the tool calls") == "AssertionError");
  CHECK(kind("a</think>b" + eos, plain, "</think> inside the content") == "AssertionError");
  CHECK(kind("<think>a</think>b" + eos, think, "<think> inside the reasoning") == "AssertionError");
  CHECK(kind("\n\n<｜DSML｜tool_calls>x", plain, R"(expected ">\n" and a tag, found ">x")") == "ValueError");
  CHECK(kind("\n\n<｜DSML｜tool_calls>\n", plain, "neither a call nor the end") == "ValueError");
  CHECK(kind(begin.substr(0, begin.size() - 1), plain, "of a call") == "ValueError");
  const std::string parameter = "<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜parameter>";
  CHECK(kind(begin + parameter + "\n" + parameter + end, plain, "parameter \"a\" twice") == "ValueError");
  CHECK(kind(begin + parameter + end.substr(1), plain, R"(expected ">\n")") == "ValueError");
  CHECK(kind(begin + "<｜DSML｜parameter name=\"a\" string=\"maybe\">x</｜DSML｜parameter>" + end, plain,
             "of a parameter") == "ValueError");
}

TEST_CASE("a completion of 2 MB is parsed in linear time", "[chat]") {
  std::string text = "\n\n<｜DSML｜tool_calls";
  while (text.size() < 2000000) text += ">\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke";
  // Reading it in quadratic time would take minutes.
  CHECK_THROWS_AS(parse_completion(text + ">", thinking_mode::chat), refused);
}

TEST_CASE("message to completion and back", "[chat]") {
  std::mt19937 random(4);
  const auto below = [&](std::size_t n) { return random() % n; };
  const auto words = [&] {
    static const char* const pieces[] = {"a", "\"", "<",    ">",  "\n",           "\n\n",  "</",
                                         "é", "😀", "\t",   "{}", "name=\"",      "\">\n", "true",
                                         " ", "\\", "User", "｜", "<tool_result>"};
    std::string out;
    for (std::size_t n = below(5); n > 0; --n) out += pieces[below(std::size(pieces))];
    return out;
  };
  const auto value = [&]() -> json {
    switch (below(6)) {
      case 0: return words();
      case 1: return json::integer{"-12345678901234567890"};
      case 2: return 1e-7;
      case 3: return json::array{words(), nullptr, true};
      case 4: return json::object{{words(), words()}};
      default: return json::array{};
    }
  };
  for (int i = 0; i < 3000; ++i) {
    const thinking_mode mode = i % 2 ? thinking_mode::thinking : thinking_mode::chat;
    chat_message m{"assistant", words()};
    if (mode == thinking_mode::thinking) m.reasoning_content = words();
    for (std::size_t calls = below(3); calls > 0; --calls) {
      json::object arguments;
      for (std::size_t n = below(4); n > 0; --n) arguments.emplace_back(words() + std::to_string(n), value());
      m.tool_calls.push_back({words(), python::dumps(arguments)});
    }
    const chat_message question{"user", words()};
    const std::string completion = encode_messages({&m, 1}, {mode}, {&question, 1}).text;
    INFO(completion);
    const chat_message back = parse_completion(completion, mode);
    CHECK(back.content == m.content);
    CHECK(back.reasoning_content == m.reasoning_content);
    REQUIRE(back.tool_calls.size() == m.tool_calls.size());
    for (std::size_t c = 0; c < m.tool_calls.size(); ++c) {
      CHECK(back.tool_calls[c].name == m.tool_calls[c].name);
      CHECK(back.tool_calls[c].arguments == m.tool_calls[c].arguments);
    }
  }
}

}  // namespace
}  // namespace dsv4::text
