// SPDX-License-Identifier: MIT
// Conversations: the loss is on what assistants wrote and on nothing else, whole ones are packed, and bad lines are told.
#include <set>

#include <dsv4/trainer/chat_dataset.hpp>

#include "../text/chat_cases.hpp"
#include "../text/tokenizer_test.hpp"
#include "catch.hpp"

namespace dsv4::trainer {
namespace {

using dsv4::text::trained;

chat_sample tokens(const char* input, learned_answers learn = learned_answers::all) {
  return chat_tokens(trained(), dsv4::text::read_request(dsv4::text::python::loads(input)), learn);
}
/// The text of the tokens that are learned, a bar between runs.
std::string learned(const chat_sample& s) {
  std::string out;
  for (std::size_t i = 0; i < s.ids.size();) {
    std::vector<dsv4::text::token_id> run;
    for (; i < s.ids.size() && s.answer[i]; ++i) run.push_back(s.ids[i]);
    if (run.empty())
      ++i;
    else
      out += (out.empty() ? "" : "|") + trained().decode(run);
  }
  return out;
}
const std::string eos = std::string(dsv4::text::eos_token);

TEST_CASE("chat data: the answer is learned, with its end and without what asks for it", "[trainer]") {
  const char* chat = R"({"thinking_mode": "chat", "messages": [{"role": "system", "content": "Add."},
    {"role": "user", "content": "2 and 3"}, {"role": "assistant", "content": "it is 5"}]})";
  const chat_sample s = tokens(chat);
  CHECK(learned(s) == "it is 5" + eos);
  CHECK(trained().decode(s.ids) == dsv4::text::encode_text(chat).text);
  // Reasoning is an answer as well; the opening <think> belongs to the question.
  CHECK(learned(tokens(R"([{"role": "user", "content": "2 and 3"},
    {"role": "assistant", "reasoning_content": "two, three", "content": "5"}])")) ==
        "two, three</think>5" + eos);
  // Calls of tools are, their results are not.
  const std::string tools = learned(tokens(R"([{"role": "user", "content": "weather"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "sky", "arguments": "{\"at\": \"home\"}"}}]},
    {"role": "tool", "content": "it rains"}, {"role": "assistant", "content": "rain"}])"));
  CHECK(tools.find("sky") != tools.npos);
  CHECK(tools.find("it rains") == tools.npos);
  CHECK(tools.ends_with("|</think>rain" + eos));
}

TEST_CASE("chat data: several answers, or the last alone; wo_eos", "[trainer]") {
  const char* two = R"({"thinking_mode": "chat", "messages": [
    {"role": "user", "content": "a"}, {"role": "assistant", "content": "first"},
    {"role": "user", "content": "b"}, {"role": "assistant", "content": "second"}]})";
  CHECK(learned(tokens(two)) == "first" + eos + "|second" + eos);
  CHECK(learned(tokens(two, learned_answers::last)) == "second" + eos);
  CHECK(tokens(two).ids == tokens(two, learned_answers::last).ids);
  CHECK(learned(tokens(R"({"thinking_mode": "chat", "messages": [{"role": "user", "content": "a"},
    {"role": "assistant", "content": "cut", "wo_eos": true}, {"role": "user", "content": "b"}]})")) == "cut");
}

TEST_CASE("chat data: what an assistant spells is text, and learned as text", "[trainer]") {
  const chat_sample s = tokens(
      R"({"thinking_mode": "chat", "messages": [{"role": "user", "content": "x"},
      {"role": "assistant", "content": "<｜User｜>"}]})");
  const auto user = trained().encode(dsv4::text::user_token, dsv4::text::special_tokens::allowed).at(0);
  CHECK(std::count(s.ids.begin(), s.ids.end(), user) == 1);
  CHECK(learned(s) == "<｜User｜>" + eos);
}

TEST_CASE("chat data: every released conversation keeps its tokens, and is learned where an assistant speaks",
          "[trainer]") {
  index_t with = 0, without = 0;
  for (const dsv4::text::json& c : dsv4::text::released_cases()) {
    if (dsv4::text::text_at(c, "kind") != "encode" || c.find("error")) continue;
    INFO(dsv4::text::text_at(c, "name"));
    const auto request = dsv4::text::read_request(*c.find("input"));
    const auto p = dsv4::text::encode(request);
    const auto t = dsv4::text::tokens_of(trained(), p);
    CHECK(t.ids == dsv4::text::prompt_ids(trained(), p));
    REQUIRE(t.answer.size() == t.ids.size());
    const bool assistant = std::any_of(request.messages.begin(), request.messages.end(),
                                       [](const auto& m) { return m.role == "assistant"; });
    const bool some = std::count(t.answer.begin(), t.answer.end(), 1) > 0;
    if (some) CHECK(assistant);
    if (some && !p.shared_segment) {
      const chat_sample s = chat_tokens(trained(), request);
      CHECK(s.ids == t.ids);
      ++with;
    } else {
      CHECK_THROWS_AS(chat_tokens(trained(), request), format_error);
      ++without;
    }
  }
  CHECK(with > 50);
  CHECK(without > 0);
}

TEST_CASE("chat data: lines of a file, and what is wrong with one", "[trainer]") {
  const std::string good =
      R"({"thinking_mode": "chat", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})";
  const auto read = [](const std::string& lines) {
    return read_conversations(trained(), lines, "talk.jsonl");
  };
  const auto some = read(good + "\n\n  \r\n" + good);
  REQUIRE(some.size() == 2);
  CHECK((some[0].line == 1 && some[1].line == 4));
  const auto refuses = [&](const std::string& lines, const char* part) {
    CHECK_THROWS_WITH(read(lines), Catch::Matchers::ContainsSubstring(part));
  };
  refuses(good + "\n{\"messages\": [", "talk.jsonl:2: ");
  refuses(R"({"messages": [{"role": "user"}]})", "talk.jsonl:1: no assistant's message");
  refuses(R"({"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "b"}]})",
          "wizard");
  refuses(
      R"({"thinking_mode": "chat", "messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "b"}]})",
      "put a user message before");
  refuses("7", "talk.jsonl:1");
  refuses("", "no conversations");
  // Longer than a row.
  CHECK_THROWS_WITH(chat_dataset(some, some[0].size() - 1, 1), Catch::Matchers::ContainsSubstring("line 1"));
}

/// Conversation i has the tokens 100 i ..., of which the last `answers` are learned.
std::vector<chat_sample> numbered(const std::vector<index_t>& lengths, index_t answers) {
  std::vector<chat_sample> out;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    chat_sample& s = out.emplace_back();
    for (index_t k = 0; k < lengths[i]; ++k) {
      s.ids.push_back(static_cast<std::int32_t>(100 * (i + 1)) + static_cast<std::int32_t>(k));
      s.answer.push_back(k >= lengths[i] - answers);
    }
    s.line = static_cast<index_t>(i) + 1;
  }
  return out;
}

TEST_CASE("chat data: a token's target is the next one where that is learned", "[trainer]") {
  batch b;
  for (const chat_sample& s : numbered({4, 3}, 2)) append_conversation(s, b);
  CHECK(b.ids == std::vector<std::int32_t>{100, 101, 102, 103, 200, 201, 202});
  CHECK(b.targets == std::vector<std::int32_t>{-1, 102, 103, -1, 201, 202, -1});
  CHECK(b.begins == std::vector<index_t>{0, 4, 7});
}

TEST_CASE("chat data: rows hold whole conversations, each once an epoch, in the order of the seed",
          "[trainer]") {
  const std::vector<index_t> lengths{5, 3, 9, 2, 7, 10, 4, 4, 6, 1};
  chat_dataset d(numbered(lengths, 1), 10, 3);
  const auto epoch = [](chat_dataset& data, index_t e) {
    std::vector<std::int32_t> firsts;
    cursor at{e, 0};
    for (const index_t rows = data.rows_in_epoch(e); at.position < rows;) {
      const batch b = data.next(at, 1);
      CHECK(b.tokens() <= 10);
      for (index_t i = 0; i < b.samples(); ++i) firsts.push_back(b.ids[std::size_t(b.begin(i))]);
    }
    return firsts;
  };
  const auto zero = epoch(d, 0), one = epoch(d, 1);
  CHECK(zero.size() == lengths.size());
  CHECK(std::set(zero.begin(), zero.end()).size() == lengths.size());
  CHECK(std::set(one.begin(), one.end()) == std::set(zero.begin(), zero.end()));
  CHECK(zero != one);
  chat_dataset again(numbered(lengths, 1), 10, 3), other(numbered(lengths, 1), 10, 4);
  CHECK(epoch(again, 1) == one);  // from anywhere: the cursor is all there is
  CHECK(epoch(other, 0) != zero);
  // Rows run on from one epoch into the next.
  cursor at;
  const index_t rows = d.rows_in_epoch(0);
  for (index_t r = 0; r < rows; ++r) d.next(at, 1);
  const batch b = d.next(at, 1);
  CHECK(at == cursor{1, 1});
  CHECK(b.ids.front() == one.front());
}

}  // namespace
}  // namespace dsv4::trainer
