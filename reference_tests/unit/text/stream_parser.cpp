// SPDX-License-Identifier: MIT
// The stream parser: however a completion is cut into pieces, the events join to the same message.
#include <dsv4/text/stream_parser.hpp>

#include <random>

#include <dsv4/text/chat_parsing.hpp>

#include "catch.hpp"
#include "chat_cases.hpp"

namespace dsv4::text {
namespace {

using Catch::Matchers::ContainsSubstring;

bool whole_characters(std::string_view s) {
  for (std::size_t at = 0; at < s.size();) {
    const code_point c = decode_wtf8(s, at, surrogates::allowed);
    if (c.bytes == 0) return false;
    at += c.bytes;
  }
  return true;
}

/// Collects, and holds every event to what the parser promises of it.
struct strict_collector : message_collector {
  explicit strict_collector(bool characters) : characters(characters) {}
  void text(answer_part part, std::string_view words) override {
    CHECK_FALSE(words.empty());
    if (characters) CHECK(whole_characters(words));
    message_collector::text(part, words);
  }
  void arguments(std::string_view json_text) override {
    CHECK(open);
    if (characters) CHECK(whole_characters(json_text));
    message_collector::arguments(json_text);
  }
  void call_begin(std::string_view name) override {
    CHECK_FALSE(open);
    open = true;
    message_collector::call_begin(name);
  }
  void call_end() override {
    CHECK(open);
    open = false;
    message_collector::call_end();
  }
  bool characters, open = false;
};

/// What becomes of a completion that comes in pieces: the message as JSON, or the kind of refusal.
std::string outcome(const std::vector<std::string_view>& pieces, thinking_mode mode, bool characters) {
  try {
    strict_collector all(characters);
    stream_parser parser(mode);
    for (const std::string_view p : pieces) parser.feed(p, all);
    parser.finish(all);
    return python::dumps(to_json(all.take()), true);
  } catch (const refused& e) {
    return std::string("refused: ") + e.kind;
  }
}

void check_cuts(std::string_view text, thinking_mode mode, std::mt19937& random) {
  const bool characters = whole_characters(text);
  const std::string whole = outcome({text}, mode, characters);
  // Byte by byte, in two pieces at every place, and in pieces of random lengths.
  std::vector<std::string_view> bytes;
  for (std::size_t i = 0; i < text.size(); ++i) bytes.push_back(text.substr(i, 1));
  REQUIRE(outcome(bytes, mode, characters) == whole);
  const std::size_t step = text.size() > 2000 ? 7 : 1;
  for (std::size_t cut = 0; cut <= text.size(); cut += step)
    REQUIRE(outcome({text.substr(0, cut), text.substr(cut)}, mode, characters) == whole);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string_view> pieces;
    for (std::size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, 1 + random() % 40));
      at += pieces.back().size();
    }
    REQUIRE(outcome(pieces, mode, characters) == whole);
  }
}

TEST_CASE("stream parser: the released parser's cases, cut everywhere", "[chat]") {
  std::mt19937 random(7);
  int cases = 0;
  for (const json& c : released_cases()) {
    if (text_at(c, "kind") != "parse") continue;
    INFO(text_at(c, "name"));
    const json& input = *c.find("input");
    const json *text = input.find("text"), *mode = input.find("thinking_mode");
    if (!text || !text->text()) continue;
    check_cuts(*text->text(),
               !mode || *mode == json("thinking") ? thinking_mode::thinking : thinking_mode::chat, random);
    ++cases;
  }
  CHECK(cases == 100);
}

TEST_CASE("stream parser: texts made of markers and their pieces, cut everywhere", "[chat]") {
  const std::string d = "｜DSML｜";
  const std::vector<std::string> pieces = {"a",
                                           "é",
                                           "😀",
                                           "<",
                                           "</",
                                           "\n",
                                           "\n\n",
                                           ">\n",
                                           "\"",
                                           "\\",
                                           "</think>",
                                           "<think>",
                                           std::string(eos_token),
                                           "\n\n<" + d + "tool_calls",
                                           ">\n<" + d + "invoke",
                                           " name=\"f\">\n",
                                           "<" + d + "parameter",
                                           " name=\"p\" string=\"true\">",
                                           " name=\"q\" string=\"false\">",
                                           "</" + d + "parameter",
                                           ">\n</" + d + "invoke",
                                           ">\n</" + d + "tool_calls>",
                                           d.substr(0, 5),
                                           "<\n/" + d + "parameter",
                                           "/" + d + "parameter"};
  std::mt19937 random(8);
  for (int i = 0; i < 1500; ++i) {
    std::string text;
    for (std::size_t n = random() % 14; n > 0; --n) text += pieces[random() % pieces.size()];
    INFO(text);
    check_cuts(text, i % 2 ? thinking_mode::thinking : thinking_mode::chat, random);
  }
}

/// Everything as it comes, as one line.
struct transcript : answer_sink {
  void text(answer_part part, std::string_view words) override {
    out += (part == answer_part::content ? "c:" : "r:") + std::string(words) + "|";
  }
  void call_begin(std::string_view name) override { out += "call:" + std::string(name) + "|"; }
  void arguments(std::string_view json_text) override { out += std::string(json_text) + "|"; }
  void call_end() override { out += "end|"; }
  std::string out;
};

TEST_CASE("stream parser: events come as soon as they can be told", "[chat]") {
  stream_parser parser(thinking_mode::thinking);
  transcript seen;
  const auto after = [&](std::string_view piece) {
    seen.out.clear();
    parser.feed(piece, seen);
    return seen.out;
  };
  CHECK(after("I think") == "r:I think|");
  CHECK(after(" so</th") == "r: so|");  // may become </think>
  CHECK(after("is") == "r:</this|");    // did not
  CHECK(after("\xf0\x9f") == "");       // half a character
  CHECK(after("\x98\x80") == "r:😀|");
  CHECK(after("</think>Let me look.\n\n") == "c:Let me look.|");
  CHECK(after("<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"find\">") == "");
  CHECK(after("\n<｜DSML｜parameter name=\"what\" string=\"true\">\"a") == "call:find|{|\"what\": \"|\\\"a|");
  CHECK(after(" b") == " b|");
  CHECK(after("</｜DSML｜parameter>\n<｜DSML｜parameter name=\"n\" string=\"false\">[1,") ==
        "\"|, \"n\": |[1,|");
  CHECK(after("2]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>") == "2]|}|end|");
  CHECK_FALSE(parser.ended());
  CHECK(after(eos_token) == "");
  CHECK(parser.ended());
  parser.finish(seen);
  CHECK_THROWS_WITH(parser.feed("x", seen), ContainsSubstring("after the end-of-sentence token"));
}

TEST_CASE("stream parser: a special token among words stops a plain sink at once", "[chat]") {
  stream_parser parser(thinking_mode::chat);
  transcript seen;
  CHECK_THROWS_WITH(parser.feed("words<think>more", seen), ContainsSubstring("<think> inside the content"));
  CHECK(seen.out == "c:words|");
}

}  // namespace
}  // namespace dsv4::text
