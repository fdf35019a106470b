// SPDX-License-Identifier: MIT
// Python's JSON.  What json.loads and json.dumps of CPython 3.11 give; "expected" columns were printed by it.
#include <cmath>
#include <cstring>
#include <dsv4/text/python_json.hpp>
#include <string>

#include "catch.hpp"

namespace dsv4::text {
namespace {

std::string again(std::string_view text, bool ascii = false) {
  return python::dumps(python::loads(text), ascii);
}

TEST_CASE("numbers are written as Python writes them", "[chat][json]") {
  const std::pair<const char*, const char*> cases[] = {{"0", "0"},
                                                       {"-0", "0"},
                                                       {"12345678901234567890123", "12345678901234567890123"},
                                                       {"-9223372036854775809", "-9223372036854775809"},
                                                       {"1.0", "1.0"},
                                                       {"1.5", "1.5"},
                                                       {"-0.0", "-0.0"},
                                                       {"0.1", "0.1"},
                                                       {"100.25", "100.25"},
                                                       {"1E5", "100000.0"},
                                                       {"123e-2", "1.23"},
                                                       {"1e15", "1000000000000000.0"},
                                                       {"1e16", "1e+16"},
                                                       {"1e20", "1e+20"},
                                                       {"1e22", "1e+22"},
                                                       {"1.25e+100", "1.25e+100"},
                                                       {"9999999999999998.0", "9999999999999998.0"},
                                                       {"0.0001", "0.0001"},
                                                       {"0.00012", "0.00012"},
                                                       {"0.00001", "1e-05"},
                                                       {"1e-7", "1e-07"},
                                                       {"5e-324", "5e-324"},
                                                       {"2.5e-324", "5e-324"},
                                                       {"2e-324", "0.0"},
                                                       {"-1e-999", "-0.0"},
                                                       {"1.7976931348623157e308", "1.7976931348623157e+308"},
                                                       {"1e309", "Infinity"},
                                                       {"-1e99999999999999999999", "-Infinity"},
                                                       {"1e-99999999999999999999", "0.0"},
                                                       {"0e99999999999999999999", "0.0"},
                                                       {"0.3333333333333333333", "0.3333333333333333"},
                                                       {"NaN", "NaN"},
                                                       {"Infinity", "Infinity"},
                                                       {"-Infinity", "-Infinity"}};
  for (const auto& [text, expected] : cases) {
    INFO(text);
    CHECK(again(text) == expected);
    CHECK(again("[" + std::string(text) + "]") == "[" + std::string(expected) + "]");
  }
  const std::string long_zero = "0." + std::string(400, '0') + "1e400",
                    long_one = "1" + std::string(400, '0') + "e-399";
  CHECK(again(long_zero) == "0.1");
  CHECK(again(long_one) == "10.0");
  CHECK(again("1" + std::string(400, '0') + ".0") == "Infinity");
  CHECK(again("0." + std::string(400, '0') + "1") == "0.0");
}

TEST_CASE("repr keeps every float", "[chat][json]") {
  std::uint64_t bits = 1;
  for (int i = 0; i < 20000; ++i) {
    bits = bits * 6364136223846793005u + 1442695040888963407u;
    double v;
    std::memcpy(&v, &bits, sizeof v);
    if (!std::isfinite(v)) continue;
    CHECK(python::to_double(python::repr(v)) == v);
  }
}

TEST_CASE("strings: which characters are escaped, and surrogates alone and in pairs", "[chat][json]") {
  CHECK(again(R"("\u0000\u001f\u007f\/\b\f\n\r\t\"\\")") == "\"\\u0000\\u001f\x7f/\\b\\f\\n\\r\\t\\\"\\\\\"");
  CHECK(again(R"("\u007f é 😀 \u2028")", true) == R"("\u007f \u00e9 \ud83d\ude00 \u2028")");
  CHECK(again(R"("\u00e9\uD83D\uDE00\u2028")") == "\"é😀\xe2\x80\xa8\"");
  for (const char* lone :
       {R"("\ud83d")", R"("\ude00\ud83d")", R"("\ud83d\ud83d\ude00")", R"("\ud83dA")", R"("\ud83d\n")"})
    CHECK(again(lone, true) == lone);
  CHECK(again(R"("\ud83d")") == "\"\xed\xa0\xbd\"");
  // Text that JSON gave may hold them; bytes from outside may not.
  CHECK(python::loads("\"\xed\xa0\xbd\"", surrogates::allowed) == python::loads(R"("\ud83d")"));
  CHECK_THROWS_AS(python::loads("\"\xed\xa0\xbd\""), json_error);
  CHECK(python::dumps(json(std::string_view("a\xff\xe2\x80", 4)), true) == R"("a\ufffd\ufffd\ufffd")");
}

TEST_CASE("objects keep their order; of equal keys the first place and the last value", "[chat][json]") {
  CHECK(again(R"( {"b":1,"a":[true,false,null,{}],"b":{"c":[]}} )") ==
        R"({"b": {"c": []}, "a": [true, false, null, {}]})");
}

TEST_CASE("a chat does not end at a NUL byte", "[chat][json]") {
  for (const std::string_view behind : {std::string_view("\0", 1), std::string_view("\0{}", 3)})
    CHECK_THROWS_AS(python::loads("{\"a\": 1}" + std::string(behind)), json_error);
}

TEST_CASE("what is no JSON is refused with its place", "[chat][json]") {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[1,]",
                           "[1 2]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{a:1}",
                           "{\"a\":1,}",
                           "01",
                           "+1",
                           ".5",
                           "1.",
                           "1e",
                           "--1",
                           "-",
                           "nul",
                           "True",
                           "'a'",
                           "\"a",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u+123\"",
                           "\"\\ud83d\\u12\"",
                           "\"\n\"",
                           "\"\\",
                           "1 2",
                           "\xef\xbb\xbf"
                           "1",
                           "-Infinit",
                           "\"\xff\"",
                           "\"\xc0\x80\"",
                           "\"\xe2\x80\"",
                           "\"\xf4\x90\x80\x80\""}) {
    INFO(text);
    CHECK_THROWS_AS(python::loads(text), json_error);
  }
  CHECK_THROWS_AS(python::loads(std::string_view("1\0", 2)), json_error);
  try {
    python::loads("[1, x]");
  } catch (const json_error& e) {
    CHECK(e.offset == 4);
    CHECK_THAT(e.what(), Catch::Matchers::ContainsSubstring("byte 4: expected a value, found \"x\""));
  }
}

TEST_CASE("nesting and digits have limits", "[chat][json]") {
  const auto nested = [](int n) {
    return std::string(static_cast<std::size_t>(n), '[') + std::string(static_cast<std::size_t>(n), ']');
  };
  CHECK(again(nested(python::most_depth)) == nested(python::most_depth));
  CHECK_THROWS_AS(python::loads(nested(python::most_depth + 1)), json_error);
  CHECK_THROWS_AS(python::loads(std::string(1000000, '[')), json_error);
  CHECK_THROWS_AS(python::loads(std::string(1000000, '{')), json_error);
  const std::string digits(python::most_digits, '7');
  CHECK(again(digits) == digits);
  CHECK(again("-" + digits) == "-" + digits);
  CHECK_THROWS_AS(python::loads(digits + "7"), json_error);
}

TEST_CASE("bool() of values, and values in messages", "[chat][json]") {
  for (const char* text : {"null", "false", "0", "-0", "0.0", "-0.0", "\"\"", "[]", "{}"})
    CHECK_FALSE(truthy(python::loads(text)));
  for (const char* text : {"true", "1", "0.1", "NaN", "\" \"", "[null]", "{\"\":0}"})
    CHECK(truthy(python::loads(text)));
  CHECK(python::shown(json("\x1b[2J")) == R"("\u001b[2J")");
  CHECK(python::shown(json(std::string(1000, 'a'))).size() == 123);
}

}  // namespace
}  // namespace dsv4::text
