// SPDX-License-Identifier: MIT
// tokenizer.json: what is accepted, and every way in which a file can be wrong.
#include "../io/io_test.hpp"
#include "catch.hpp"
#include "tokenizer_test.hpp"

namespace dsv4::text {
namespace {

using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

/// The message with which a changed file is refused.
template <class E>
std::string refused(const std::function<void(json&)>& change) {
  json file = bytes_only({"\\s"});
  add_merge(file, "a", "b");
  add_token(file, 257, "<s>", {{"special", true}});
  parse(file);  // as it is, it is accepted
  change(file);
  return message<E>([&] { parse(file); });
}
std::string bad(const std::function<void(json&)>& change) { return refused<format_error>(change); }
std::string missing(const std::function<void(json&)>& change) { return refused<unsupported>(change); }

TEST_CASE("a damaged tokenizer.json: file, place, found, expected", "[tokenizer][json]") {
  CHECK_THAT(message<format_error>([] { tokenizer::parse("{\"a\": ", "t.json"); }),
             ContainsSubstring("t.json: byte 7: is not JSON"));
  CHECK_THAT(message<format_error>([] { tokenizer::parse("", "t.json"); }),
             ContainsSubstring("t.json: byte"));
  CHECK_THAT(message<format_error>([] { tokenizer::parse(std::string_view("{}\0", 3), "t.json"); }),
             ContainsSubstring("t.json: is not valid JSON: byte 2 is NUL"));
  CHECK_THAT(message<format_error>([] { tokenizer::parse("[]", "t.json"); }),
             ContainsSubstring("expected an object, found []"));
  CHECK_THAT(message<format_error>([] { tokenizer::parse(std::string(100, '['), "t.json"); }),
             ContainsSubstring("nested deeper than 64"));
  CHECK_THAT(message<format_error>([] { tokenizer::load("/nowhere/tokenizer.json"); }),
             ContainsSubstring("/nowhere/tokenizer.json: cannot be opened"));

  CHECK_THAT(bad([](json& f) { f.erase("model"); }), ContainsSubstring("t.json: model is missing"));
  CHECK_THAT(bad([](json& f) { f["model"] = 3; }), ContainsSubstring("model: found 3, expected an object"));
  CHECK_THAT(bad([](json& f) { f["model"].erase("vocab"); }), ContainsSubstring("model.vocab: no tokens"));
  CHECK_THAT(bad([](json& f) { f["model"]["vocab"]["x y"] = "1"; }),
             ContainsSubstring("model.vocab, entry 'x y': found '1', expected an id"));
  CHECK_THAT(bad([](json& f) { f["model"]["vocab"]["xy"] = -1; }),
             ContainsSubstring("found -1, expected an id"));
  CHECK_THAT(bad([](json& f) { f["model"]["vocab"]["xy"] = std::uint64_t{1} << 40; }),
             ContainsSubstring("expected an id below 16777216"));
  CHECK_THAT(bad([](json& f) { f["model"]["vocab"]["xy"] = 100000; }),
             ContainsSubstring("found id 100000 among 259 tokens"));
  CHECK_THAT(bad([](json& f) { f["model"]["vocab"]["xy"] = 5; }),
             ContainsSubstring("id 5 or its token is there twice"));
  CHECK_THAT(bad([](json& f) { f["model"]["vocab"]["xy"] = json::object(); }),
             ContainsSubstring("found an object, expected an id"));
  CHECK_THAT(bad([](json& f) { f["model"]["vocab"].erase("Ġ"); }),
             ContainsSubstring("byte 32 has no token, expected 'Ġ'"));
  CHECK_THAT(bad([](json& f) { f["model"]["merges"].push_back("ab"); }),
             ContainsSubstring("model.merges, entry '1': found 'ab', expected two tokens"));
  CHECK_THAT(bad([](json& f) { f["model"]["merges"].push_back("a b c"); }),
             ContainsSubstring("two tokens with one space"));
  CHECK_THAT(bad([](json& f) { f["model"]["merges"].push_back({"a"}); }),
             ContainsSubstring("found 1 strings, expected two tokens"));
  CHECK_THAT(bad([](json& f) { f["model"]["merges"].push_back({"a", 1}); }),
             ContainsSubstring("found 1, expected two tokens"));
  CHECK_THAT(bad([](json& f) { f["model"]["merges"].push_back(7); }),
             ContainsSubstring("found 7, expected two tokens"));
  CHECK_THAT(bad([](json& f) { f["model"]["merges"].push_back({"", "a"}); }),
             ContainsSubstring("model.merges, entry 1: an empty token"));
  CHECK_THAT(bad([](json& f) { f["model"]["merges"].push_back("b a"); }),
             ContainsSubstring("'ba' is not in model.vocab"));
  CHECK_THAT(bad([](json& f) { add_token(f, 5, "new"); }),
             ContainsSubstring("'new' with id 5: the id or the content belongs to another token"));
  CHECK_THAT(bad([](json& f) { add_token(f, 300, "ab"); }), ContainsSubstring("'ab' with id 300"));
  CHECK_THAT(bad([](json& f) { add_token(f, 257, "<s>"); }), ContainsSubstring("'<s>' with id 257"));
  CHECK_THAT(bad([](json& f) { add_token(f, 300, ""); }),
             ContainsSubstring("added_tokens[1].content: found \"\", expected 1 to 1024 bytes"));
  CHECK_THAT(bad([](json& f) { add_token(f, 300, "x", {{"lstrip", 1}}); }),
             ContainsSubstring("added_tokens[1].lstrip: found 1, expected true or false"));
  CHECK_THAT(bad([](json& f) { f["pre_tokenizer"] = nullptr; }),
             ContainsSubstring("pre_tokenizer is missing"));
  CHECK_THAT(bad([](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"Regex", "("}}; }),
             ContainsSubstring("pre_tokenizer.pretokenizers[0].pattern: regular expression '('"));
  CHECK_THAT(bad([](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Together"; }),
             ContainsSubstring("expected Isolated, Removed"));
  CHECK_THAT(bad([](json& f) { f["decoder"] = nullptr; }), ContainsSubstring("decoder is missing"));
  CHECK_THAT(
      bad([](json& f) { f["post_processor"] = {{"type", "TemplateProcessing"}, {"single", json::array()}}; }),
      ContainsSubstring("post_processor.single: the text is not in it"));
}

TEST_CASE("a valid tokenizer.json that needs more is refused by name", "[tokenizer][json]") {
  CHECK_THAT(missing([](json& f) { f["model"]["type"] = "Unigram"; }),
             ContainsSubstring("model.type: found 'Unigram'"));
  CHECK_THAT(missing([](json& f) { f["model"]["dropout"] = 0.1; }),
             ContainsSubstring("model.dropout: found 0.1"));
  CHECK_THAT(missing([](json& f) { f["model"]["byte_fallback"] = true; }),
             ContainsSubstring("model.byte_fallback"));
  CHECK_THAT(missing([](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }),
             ContainsSubstring("model.end_of_word_suffix"));
  CHECK_THAT(missing([](json& f) { f["normalizer"] = {{"type", "NFC"}}; }),
             ContainsSubstring("normalizer: found {\"type\":\"NFC\"}"));
  CHECK_THAT(missing([](json& f) { f["truncation"] = {{"max_length", 5}}; }),
             ContainsSubstring("truncation") && ContainsSubstring("set it to null"));
  for (const json& padding : {json{{"strategy", {{"Fixed", 8}}}}, json(3),
                              json{{"strategy", "BatchLongest"}, {"pad_to_multiple_of", 8}}})
    CHECK_THAT(missing([&](json& f) { f["padding"] = padding; }),
               ContainsSubstring("padding") && ContainsSubstring("set it to null"));
  CHECK_THAT(missing([](json& f) { f["decoder"]["type"] = "WordPiece"; }),
             ContainsSubstring("decoder: 'WordPiece'"));
  CHECK_THAT(missing([](json& f) { f["pre_tokenizer"] = {{"type", "Whitespace"}}; }),
             ContainsSubstring("pre_tokenizer.type: 'Whitespace'"));
  CHECK_THAT(missing([](json& f) { f["pre_tokenizer"]["pretokenizers"].erase(1); }),
             ContainsSubstring("without ByteLevel at the end"));
  CHECK_THAT(missing([](json& f) { f["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; }),
             ContainsSubstring("add_prefix_space"));
  CHECK_THAT(missing([](json& f) {
               std::swap(f["pre_tokenizer"]["pretokenizers"][0], f["pre_tokenizer"]["pretokenizers"][1]);
             }),
             ContainsSubstring("a stage after ByteLevel"));
  CHECK_THAT(missing([](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"Regex", "\\b"}}; }),
             ContainsSubstring("pre_tokenizer.pretokenizers[0].pattern: regular expression, byte 0"));
  CHECK_THAT(missing([](json& f) { f["post_processor"] = {{"type", "BertProcessing"}}; }),
             ContainsSubstring("post_processor.type: 'BertProcessing'"));
  CHECK_THAT(missing([](json& f) { add_token(f, 'x', "x", {{"special", true}}); }),
             ContainsSubstring("the byte 'x' is a special token"));
}

TEST_CASE("ids may have holes, fields may be absent", "[tokenizer][json]") {
  json file = bytes_only();
  file["model"]["vocab"]["far"] = 1000;
  file.erase("added_tokens");
  const tokenizer t = parse(file);
  CHECK(t.vocab_size() == 1001);
  CHECK(t.id_to_token(1000) == "far");
  CHECK_FALSE(t.id_to_token(999).has_value());
  CHECK(t.decode(ids{999}).empty());
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};  // DeepSeek's: nothing
  file["post_processor"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}};
  CHECK(parse(file).encode("a") == ids{'a'});
}

TEST_CASE("what a file asks for and cannot matter is said, not refused", "[tokenizer][json]") {
  json file = bytes_only();
  CHECK(parse(file).encode("a") == ids{'a'});
  file["padding"] = {{"strategy", "BatchLongest"}, {"pad_to_multiple_of", nullptr}, {"pad_token", "x"}};
  const tokenizer t = parse(file);
  CHECK(t.encode("a") == ids{'a'});
  REQUIRE(t.notes().size() == 1);
  CHECK_THAT(t.notes()[0], ContainsSubstring("padding to the longest text of a batch"));
}

TEST_CASE("tokenizer_config.json names begin, end and padding", "[tokenizer][json]") {
  const temporary_directory folder;
  json file = bytes_only();
  add_token(file, 300, "<s>", {{"special", true}});
  add_token(file, 301, "</s>", {{"special", true}});
  write_file(folder / "tokenizer.json", file.dump());
  CHECK_FALSE(tokenizer::load(folder).bos().has_value());

  json names{{"bos_token", {{"__type", "AddedToken"}, {"content", "<s>"}}},
             {"eos_token", "</s>"},
             {"pad_token", "</s>"},
             {"unk_token", nullptr}};
  write_file(folder / "tokenizer_config.json", names.dump());
  for (const tokenizer& t : {tokenizer::load(folder), tokenizer::load(folder / "tokenizer.json")}) {
    CHECK(t.bos() == 300);
    CHECK(t.eos() == 301);
    CHECK(t.pad() == 301);
  }
  names["bos_token"] = "<none>";
  write_file(folder / "tokenizer_config.json", names.dump());
  CHECK_THAT(message<format_error>([&] { tokenizer::load(folder); }),
             ContainsSubstring("'bos_token': '<none>' is no token of tokenizer.json"));
  // Nothing is padded here: a padding token that does not exist is no reason to stop.
  write_file(folder / "tokenizer_config.json", R"({"pad_token": "<none>"})");
  const tokenizer padded = tokenizer::load(folder);
  CHECK_FALSE(padded.pad().has_value());
  REQUIRE(padded.notes().size() == 1);
  CHECK_THAT(padded.notes()[0], ContainsSubstring("'pad_token': '<none>' is no token"));
  const auto refuses = [&](std::string_view text) {
    write_file(folder / "tokenizer_config.json", text);
    return message<format_error>([&] { tokenizer::load(folder); });
  };
  CHECK_THAT(refuses("["), ContainsSubstring("tokenizer_config.json: is not valid JSON"));
  CHECK_THAT(refuses("[]"), ContainsSubstring("tokenizer_config.json: is not a JSON object"));
  CHECK_THAT(refuses(std::string_view("{}\0{", 4)), ContainsSubstring("byte 2 is NUL"));
}

}  // namespace
}  // namespace dsv4::text
