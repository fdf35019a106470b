// SPDX-License-Identifier: MIT
// UTF-8 and the classes of characters, over all code points.
#include "catch.hpp"
#include "tokenizer_test.hpp"

namespace dsv4::text {
namespace {

TEST_CASE("every code point is written and read back", "[tokenizer][unicode]") {
  std::size_t wrong = 0;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    std::string s;
    append_utf8(s, c);
    const utf8_step step = step_at(s, 0);
    const bool surrogate = c >= 0xD800 && c < 0xE000;
    if (surrogate ? step.valid
                  : !step.valid || static_cast<std::size_t>(step.length) != s.size() ||
                        code_point_at(s, 0) != c || character_before("x" + s, 1 + s.size()) != 1)
      ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("repair replaces maximal subparts, in one piece or byte by byte", "[tokenizer][unicode]") {
  const std::string R(replacement_character);
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"abc", "abc"},
      {"\xFF", R},
      {"a\x80z", "a" + R + "z"},
      {"\xC0\x80", R + R},                           // overlong
      {"\xE0\x80\x80", R + R + R},                   // overlong
      {"\xED\xA0\x80", R + R + R},                   // a surrogate
      {"\xF4\x90\x80\x80", R + R + R + R},           // above U+10FFFF
      {"\xE2\x82", R},                               // cut off
      {"\xE2\x82\xE2\x82\xAC", R + "\xE2\x82\xAC"},  // cut off by another
      {"\xF0\x9F\x98", R},
      {"\xF0\x9F\x98z", R + "z"},
      {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
      {"\xF1\x80\xC3\xA9", R + "\xC3\xA9"},
  };
  for (const auto& [bytes, expected] : cases) {
    CHECK(repaired(bytes) == expected);
    CHECK((valid_prefix(bytes) == bytes.size()) == (bytes == expected));
    utf8_stream stream;
    std::string out;
    for (const char b : bytes) {
      const std::string part = stream.push({&b, 1});
      CHECK(valid_prefix(part) == part.size());
      out += part;
    }
    CHECK(out + stream.finish() == expected);
  }
}

/// What Oniguruma 6.9.10 says of every code point: how many there are, and FNV-1a of their list.
/// Made with PyPI tokenizers 0.23.3, as in oracle/unicode_stand_ins.py.
struct class_of_characters {
  const char* pattern;
  std::size_t count;
  std::uint64_t hash;
};

TEST_CASE("classes of characters are Oniguruma's, in all planes", "[tokenizer][unicode]") {
  const class_of_characters classes[] = {
      {"\\p{L}+", 141028, 0x9ABBEC5090CDD78D}, {"\\p{M}+", 2501, 0x9B555C284B44A194},
      {"\\p{N}+", 1911, 0x88882B4D56227662},   {"\\p{P}+", 855, 0xFF1C1FA0EE0C80AE},
      {"\\p{S}+", 8514, 0xEF33214FFA8A60DA},   {"\\p{Z}+", 19, 0x836CE65E972DE2B9},
      {"\\p{C}+", 957236, 0xF586A4B0373FBCF9}, {"\\s+", 25, 0x231591AD12FFE059},
      {"\\d+", 760, 0x8AB68431D58920AD},       {"\\p{Lu}+", 1858, 0xE0E481F9B9AC6D08},
      {"\\p{Ll}+", 2258, 0xF2719655913AEB3A},  {"\\p{Lo}+", 136477, 0xED65AFC3DB5D15EB},
      {"\\p{Mn}+", 2020, 0xA7DE5E1E35F2F7DA},
  };
  std::string all;
  for (char32_t c = 0; c <= 0x10FFFF; ++c)
    if (c < 0xD800 || c >= 0xE000) append_utf8(all, c);
  for (const class_of_characters& k : classes) {
    INFO(k.pattern);
    std::size_t count = 0;
    std::uint64_t hash = 0xCBF29CE484222325u;
    for (const std::string& run : cut(k.pattern, split_behavior::removed, all, true))
      for (std::size_t at = 0; at < run.size(); at += static_cast<std::size_t>(step_at(run, at).length)) {
        ++count;
        hash = (hash ^ code_point_at(run, at)) * 0x100000001B3u;
      }
    CHECK(count == k.count);
    CHECK(hash == k.hash);
  }
}

TEST_CASE("white space of added tokens is that of patterns", "[tokenizer][unicode]") {
  std::size_t wrong = 0;
  const regex space = regex::compile("\\s");
  regex_workspace w;
  regex::span found;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string s, shadow;
    append_utf8(s, c);
    if (space.find(with_stand_ins(s, shadow), 0, w, found) != is_white_space(c)) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("stand-ins keep the length, and text without newer characters", "[tokenizer][unicode]") {
  for (const detail::newer_range& r : detail::newer_characters)
    for (const char32_t c : {r.first, r.last}) {
      std::string s, t;
      append_utf8(s, c);
      append_utf8(t, stand_in_for(c));
      CHECK(s.size() == t.size());
      CHECK(s != t);
    }
  std::string shadow;
  const std::string_view plain = "abc \xE9\x81\x93 \xF0\x9F\x98\x80";
  CHECK(with_stand_ins(plain, shadow).data() == plain.data());
  CHECK(with_stand_ins("a\xF0\x90\xB5\x80z", shadow) == "a\xF0\x90\x92\xA0z");  // U+10D40, a digit -> U+104A0
}

}  // namespace
}  // namespace dsv4::text
