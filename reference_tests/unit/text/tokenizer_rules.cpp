// SPDX-License-Identifier: MIT
// Each part by itself: where stages cut, which pair merges first, what an added token takes.
#include "catch.hpp"
#include "tokenizer_test.hpp"

namespace dsv4::text {
namespace {

using nlohmann::json;

TEST_CASE("DeepSeek's three stages", "[tokenizer][pre_tokenizer]") {
  // The cuts show in a tokenizer that has them, no merges, and one word.
  json file = bytes_only();
  const io::mapped_file text(test_data("text/tokenizer.json"));
  const json real = json::parse(text.text());
  file["pre_tokenizer"] = real["pre_tokenizer"];
  file["model"]["ignore_merges"] = true;  // a word that is in the vocabulary is one token
  const auto one_word = [&](const std::string& word, std::string_view text) {
    json with = file;
    std::string mapped;
    for (const char c : word) append_utf8(mapped, byte_level.character(static_cast<unsigned char>(c)));
    with["model"]["vocab"][mapped] = 256;
    const ids found = parse(with).encode(text);
    return std::count(found.begin(), found.end(), 256);
  };
  CHECK(one_word("123", "1234567") == 1);
  CHECK(one_word("456", "1234567") == 1);
  CHECK(one_word("7", "1234567") == 1);
  CHECK(one_word("4567", "1234567") == 0);
  CHECK(one_word("道可道", "abc道可道xyz") == 1);
  CHECK(one_word(" world", "hello world") == 1);
  CHECK(one_word(".cpp", "main.cpp") == 1);  // punctuation before letters joins them
  CHECK(one_word("don", "don't") == 1);
  CHECK(one_word("'t", "don't") == 1);
  CHECK(one_word("!!\n\n", "hi!!\n\nyou") == 1);
  CHECK(one_word("   ", "x    y") == 1);  // \s+(?!\S) leaves the last space to the word
  CHECK(one_word(" y", "x    y") == 1);
  CHECK(one_word("  \n", "x  \n  y") == 1);
  CHECK(pieces_of(trained(), "the LORD") == pieces{"the", " LORD"});
}

TEST_CASE("what stays together", "[tokenizer][pre_tokenizer]") {
  using enum split_behavior;
  const std::string text = "a--b-c";
  CHECK(cut("-", isolated, text) == pieces{"a", "-", "-", "b", "-", "c"});
  CHECK(cut("-", removed, text) == pieces{"a", "b", "c"});
  CHECK(cut("-", merged_with_previous, text) == pieces{"a-", "-", "b-", "c"});
  CHECK(cut("-", merged_with_next, text) == pieces{"a", "-", "-b", "-c"});
  CHECK(cut("-", contiguous, text) == pieces{"a", "--", "b", "-", "c"});
  CHECK(cut("[a-z]", isolated, text, true) == pieces{"a", "--", "b", "-", "c"});
  CHECK(cut("[a-z]", removed, text, true) == pieces{"a", "b", "c"});
  CHECK(cut("x*", isolated, "axxb") == pieces{"a", "xx", "b"});  // empty matches cut, and are no pieces
  CHECK(cut("(?<=a)b", isolated, "abcb") == pieces{"a", "b", "cb"});
  CHECK(cut("^.", isolated, "ab\ncd") == pieces{"a", "b\n", "c", "d"});
  CHECK(cut(pre_tokenizer(), "anything") == pieces{"anything"});
  CHECK(cut(pre_tokenizer(), "").empty());
}

TEST_CASE("a stage sees one piece alone", "[tokenizer][pre_tokenizer]") {
  std::vector<split_stage> stages;
  stages.push_back({regex::compile("\\d")});
  stages.push_back({regex::compile("\\s+(?!\\S)")});
  // The second stage meets the end of its piece before the digit: both spaces go together.
  CHECK(cut(pre_tokenizer(std::move(stages)), "a  1") == pieces{"a", "  ", "1"});
}

TEST_CASE("patterns outside the common dialect are refused by name", "[tokenizer][regex]") {
  using Catch::Matchers::ContainsSubstring;
  for (const char* pattern :
       {"\\w",     "\\b",          "\\h",        "\\v",       "\\R",    "\\X",         "\\1",
        "\\k<a>",  "(?m)a",        "(?<name>a)", "(*COMMIT)", "[[a]b]", "[[:alpha:]]", "[a&&b]",
        "[]a]",    "a{,3}",        "a{2}+",      "a{2}?",     "a{x",    "\\p{Han}",    "\\pL",
        "\\p{^L}", "(?i:\\p{Lu})", "(?i:ss)",    "(?i:a",     "(?i:",   "(?i:é)",      "(?i:[a-z])",
        "\\xFF",   "\\x{1234567}", "[a"}) {
    INFO(pattern);
    CHECK_THROWS_AS(regex::compile(pattern), unsupported);
  }
  CHECK_THROWS_WITH(regex::compile("ab\\w"),
                    ContainsSubstring("byte 2") && ContainsSubstring("'\\w' is not implemented"));
  for (const char* pattern : {"(", ")", "*", "(?<=a+)b", "[z-a]", "\xFF", "\\x{D800}"}) {
    INFO(pattern);
    CHECK_THROWS_AS(regex::compile(pattern), format_error);
  }
  CHECK(cut("(?i:'s|'LL)|a", split_behavior::isolated, "x'Sa'll") == pieces{"x", "'S", "a", "'ll"});
  CHECK(cut("\\u9053|[\\x{4E00}-\\x{4E01}]|\\x41", split_behavior::isolated, "道A一b") ==
        pieces{"道", "A", "一", "b"});
}

TEST_CASE("a pattern that backtracks without end stops", "[tokenizer][regex]") {
  const std::string many(40, 'a');
  CHECK_THROWS_AS(cut("(a|a)*(a|a)*\\d", split_behavior::isolated, many), unsupported);
  CHECK(cut("\\s*[\\r\\n]+|\\s+", split_behavior::isolated, std::string(3000000, ' ')).size() == 1);
}

TEST_CASE("the earliest rule first, then the leftmost pair", "[tokenizer][bpe]") {
  json file = bytes_only();
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {"b", "c"}, {"a", "b"}, {"a", "a"}, {"aa", "a"}, {"ab", "c"}})
    add_merge(file, left, right);
  const tokenizer t = parse(file);
  CHECK(pieces_of(t, "abc") == pieces{"a", "bc"});
  CHECK(pieces_of(t, "abd") == pieces{"ab", "d"});
  CHECK(pieces_of(t, "aaaaa") == pieces{"aa", "aaa"});
  CHECK(pieces_of(t, "aaab") == pieces{"aa", "ab"});
  CHECK(pieces_of(t, "").empty());

  // The same pair twice: the later place counts.
  add_merge(file, "b", "c");
  CHECK(pieces_of(parse(file), "abc") == pieces{"abc"});
}

TEST_CASE("merges as pairs may hold any token", "[tokenizer][bpe]") {
  json file = bytes_only();
  add_merge(file, "a", "b");
  file["model"]["merges"] = json::array({json::array({"a", "b"})});
  CHECK(pieces_of(parse(file), "cab") == pieces{"c", "ab"});
}

TEST_CASE("ignore_merges: a word of the vocabulary is one token", "[tokenizer][bpe]") {
  json file = bytes_only({" ?[a-z]+"});
  file["model"]["vocab"]["Ġxyz"] = 256;
  CHECK(pieces_of(parse(file), "a xyz") == pieces{"a", " ", "x", "y", "z"});
  file["model"]["ignore_merges"] = true;
  CHECK(pieces_of(parse(file), "a xyz") == pieces{"a", " xyz"});
}

TEST_CASE("a word is the same with and without the cache", "[tokenizer][bpe]") {
  // Words around the longest that a cache line holds, each twice.
  for (std::size_t n = 1; n < 40; ++n) {
    const std::string word(n, 'e');
    const ids first = trained().encode(word);
    CHECK(trained().encode(word) == first);
    CHECK(trained().decode(first) == word);
  }
}

TEST_CASE("added tokens: the longest, in two searches", "[tokenizer][added]") {
  const auto find = [](const json& file, std::string_view text) {
    return pieces_of(parse(file), text, special_tokens::allowed);
  };
  json file = bytes_only();
  add_token(file, 300, "<a>");
  add_token(file, 301, "<a>b");
  add_token(file, 302, "b<");
  CHECK(find(file, "x<a>c<a>bb") == pieces{"x", "<a>", "c", "<a>b", "b"});
  CHECK(find(file, "b<a>") == pieces{"b<", "a", ">"});  // the leftmost
  CHECK(find(file, "<a<a>") == pieces{"<", "a", "<a>"});

  json two = bytes_only();
  add_token(two, 300, "ab", {{"normalized", true}});
  add_token(two, 301, "bc");
  CHECK(find(two, "abc") == pieces{"a", "bc"});  // those not normalized are searched first

  json strip = bytes_only();
  add_token(strip, 300, "<l>", {{"lstrip", true}});
  add_token(strip, 301, "<r>", {{"rstrip", true}});
  add_token(strip, 302, "<w>", {{"single_word", true}});
  CHECK(find(strip, "a \u3000<l> b") == pieces{"a", "<l>", " ", "b"});
  CHECK(find(strip, "a <r>\n b") == pieces{"a", " ", "<r>", "b"});
  CHECK(find(strip, "<r> <l>x") == pieces{"<r>", "<l>", "x"});
  CHECK(find(strip, "a<w> <w>b .<w>.") ==
        pieces{"a", "<", "w", ">", " ", "<", "w", ">", "b", " ", ".", "<w>", "."});
  CHECK(find(strip, "é<w>").size() == 5);
}

TEST_CASE("TemplateProcessing surrounds a text on request", "[tokenizer][added]") {
  json file = bytes_only();
  add_token(file, 300, "<s>", {{"special", true}});
  add_token(file, 301, "</s>", {{"special", true}});
  const auto special = [](const char* name) {
    return json{{"SpecialToken", {{"id", name}, {"type_id", 0}}}};
  };
  const auto entry = [](const char* name, token_id id) {
    return json{{"id", name}, {"ids", {id}}, {"tokens", {name}}};
  };
  file["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {{{"type", "ByteLevel"}},
        {{"type", "TemplateProcessing"},
         {"single", {special("<s>"), {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, special("</s>")}},
         {"special_tokens", {{"<s>", entry("<s>", 300)}, {"</s>", entry("</s>", 301)}}}}}}};
  const tokenizer t = parse(file);
  CHECK(t.encode("a") == ids{'a'});
  CHECK(t.with_template(t.encode("a")) == ids{300, 'a', 301});
  CHECK(trained().with_template({7}) == ids{7});
}

}  // namespace
}  // namespace dsv4::text
