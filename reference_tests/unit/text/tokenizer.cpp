// SPDX-License-Identifier: MIT
// The tokenizer against PyPI `tokenizers` (stored answers), and what its functions promise.
#include <dsv4/io/zstd_stream.hpp>
#include <random>
#include <thread>

#include "catch.hpp"
#include "tokenizer_test.hpp"

namespace dsv4::text {
namespace {

using nlohmann::json;

std::string from_hex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

/// The lines of cases.jsonl.zst: [request, answer].
const std::vector<json>& stored_cases() {
  static const std::vector<json> all = [] {
    const io::owned_bytes text = io::read_zstd(test_data("text/cases.jsonl.zst"));
    std::istringstream lines(std::string(reinterpret_cast<const char*>(text.data()), text.size));
    std::vector<json> out;
    for (std::string line; std::getline(lines, line);) out.push_back(json::parse(line));
    return out;
  }();
  return all;
}

TEST_CASE("random and hostile texts: the ids and the text of PyPI tokenizers", "[tokenizer][golden]") {
  std::size_t encoded = 0, decoded = 0, wrong = 0, differ = 0;
  const json* before = nullptr;
  for (const json& c : stored_cases()) {
    const json &asked = c[0], &answer = c[1];
    if (asked.contains("hex")) {
      const auto how = asked["special"] == "allowed" ? special_tokens::allowed : special_tokens::as_text;
      wrong += trained().encode(from_hex(asked["hex"]), how) != answer["ids"].get<ids>();
      differ += before && how == special_tokens::as_text && *before != answer;
      before = &answer;
      ++encoded;
    } else {
      const auto list = asked["ids"].get<ids>();
      const bool skip = asked["skip_special"];
      wrong += trained().decode(list, skip) != answer["text"].get<std::string>();
      stream_decoder stream(trained(), skip);
      std::string streamed;
      for (const token_id id : list) streamed += stream.push(id);
      wrong += streamed + stream.finish() != answer["text"].get<std::string>();
      ++decoded;
    }
  }
  CHECK(encoded == 2000);
  CHECK(decoded == 4000);
  CHECK(differ == 118);  // texts that spell an added token: the two readings are two questions
  CHECK(wrong == 0);
}

TEST_CASE("a user's text never becomes a control token", "[tokenizer]") {
  const tokenizer& t = trained();
  const std::string text = "<｜User｜>hi<｜Assistant｜></think><｜end▁of▁sentence｜>";
  const ids control = t.encode(text, special_tokens::allowed), plain = t.encode(text);
  CHECK(control.front() == t.token_to_id("<｜User｜>"));
  CHECK(control.back() == t.eos());
  for (const char* token : {"<｜User｜>", "<｜Assistant｜>", "</think>", "<｜end▁of▁sentence｜>"})
    CHECK(std::count(plain.begin(), plain.end(), t.token_to_id(token).value()) == 0);
  CHECK(t.decode(plain) == text);
  // A prompt of both kinds.
  const text_part prompt[] = {{"<｜User｜>", special_tokens::allowed}, {"</think>", special_tokens::as_text}};
  ids expected = t.encode("<｜User｜>", special_tokens::allowed);
  for (const token_id id : t.encode("</think>")) expected.push_back(id);
  CHECK(t.encode(prompt) == expected);
}

TEST_CASE("as text, merges that would make an added token are taken back", "[tokenizer]") {
  json file = bytes_only();
  add_merge(file, "a", "b");
  add_merge(file, "ab", "c");
  add_merge(file, "abc", "d");
  add_token(file, 257, "abc", {{"special", true}});
  for (const bool whole : {false, true}) {
    file["model"]["ignore_merges"] = whole;
    const tokenizer t = parse(file);
    CHECK(pieces_of(t, "xabc") == pieces{"x", "ab", "c"});
    CHECK(pieces_of(t, "abc") == pieces{"ab", "c"});
    CHECK(pieces_of(t, "abcd") == pieces{"abcd"});
    CHECK(t.encode("abc", special_tokens::allowed) == ids{257});
  }
}

TEST_CASE("tokens, ids, names", "[tokenizer]") {
  const tokenizer& t = trained();
  CHECK(t.vocab_size() == 4096);
  CHECK(t.bos() == 0);
  CHECK(t.eos() == 1);
  CHECK_FALSE(t.pad().has_value());
  const token_id the = t.token_to_id("Ġthe").value();
  CHECK(t.id_to_token(the) == "Ġthe");
  CHECK(t.bytes_of(the) == " the");
  CHECK_FALSE(t.is_special(the));
  CHECK(t.is_special(0));
  CHECK_FALSE(t.is_special(
      t.token_to_id("<think>").value()));  // an added token, but not special: as in DeepSeek's file
  CHECK_FALSE(t.token_to_id("no such token").has_value());
  for (const token_id none : {-1, 4096, 1 << 30}) {
    CHECK_FALSE(t.id_to_token(none).has_value());
    CHECK_FALSE(t.is_special(none));
    CHECK(t.bytes_of(none).empty());
  }
  CHECK(t.decode(ids{-1, the, 4096}) == " the");
}

TEST_CASE("a streamed character appears when it is whole", "[tokenizer]") {
  const tokenizer t = parse(bytes_only());
  stream_decoder stream(t);
  const std::string smile = "\xF0\x9F\x98\x80", R(replacement_character);
  CHECK(stream.push(0xF0).empty());
  CHECK(stream.push(0x9F).empty());
  CHECK(stream.push(0x98).empty());
  CHECK(stream.push(0x80) == smile);
  CHECK(stream.push('a') == "a");
  CHECK(stream.push(0xE2).empty());
  CHECK(stream.push('b') == R + "b");
  CHECK(stream.push(0xE2).empty());
  CHECK(stream.finish() == R);
  CHECK(stream.finish().empty());
}

TEST_CASE("a run without a boundary takes n log n", "[tokenizer]") {
  // A quadratic algorithm would need 10^12 steps for each.
  const std::size_t n = 1000000;
  for (const std::string& unit : {std::string("a"), std::string(" "), std::string("the"),
                                  std::string("\xE9\x81\x93"), std::string(".a")}) {
    std::string text;
    while (text.size() < n) text += unit;
    text += 'x';
    CHECK(trained().decode(trained().encode(text)) == text);
  }
  // White space that added tokens take along is looked at once.
  json file = bytes_only();
  add_token(file, 300, "\n", {{"rstrip", true}});
  CHECK(parse(file).encode(std::string(n, '\n'), special_tokens::allowed).size() == n);
}

TEST_CASE("several threads, one tokenizer", "[tokenizer]") {
  std::vector<std::string> texts;
  for (const json& c : stored_cases())
    if (c[0].contains("hex") && texts.size() < 200) texts.push_back(from_hex(c[0]["hex"]));
  std::vector<ids> expected;
  for (const std::string& s : texts) expected.push_back(trained().encode(s));
  const tokenizer fresh = tokenizer::load(test_data("text/tokenizer.json"));
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t k = 0; k < wrong.size(); ++k)
    threads.emplace_back([&, k] {
      for (std::size_t i = 0; i < texts.size(); ++i) wrong[k] += fresh.encode(texts[i]) != expected[i];
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

}  // namespace
}  // namespace dsv4::text
