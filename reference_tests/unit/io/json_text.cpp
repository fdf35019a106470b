// SPDX-License-Identifier: MIT
// JSON texts: a NUL byte hides nothing from any reader of a file; nesting and numbers are bounded.
#include "dsv4/io/json_text.hpp"

#include "catch.hpp"
#include "data.hpp"
#include "dsv4/io/checkpoint.hpp"
#include "io_test.hpp"
#include "mini_checkpoint.hpp"

using namespace dsv4;
using namespace dsv4::io;
using Catch::Matchers::ContainsSubstring;
using nlohmann::json;
using namespace std::string_literals;

TEST_CASE("json: a NUL byte is refused wherever it stands", "[io]") {
  for (const std::string& text : {"{}\0"s, "{}\0 {\"a\": 1}"s, "{\"a\"\0: 1}"s, "\0"s, "{\"a\": \"\0\"}"s}) {
    const std::string what = message<not_json>([&] { parse_json("f.json", text); });
    CHECK_THAT(what, ContainsSubstring("f.json: ") &&
                         ContainsSubstring("byte " + std::to_string(text.find('\0')) + " is NUL"));
    CHECK_FALSE(try_parse_json(text));
  }
  CHECK(parse_json("f.json", R"({"a": "\u0000"})")["a"] == "\0"s);  // written as an escape it is a character
}

TEST_CASE("json: what else is no JSON", "[io]") {
  CHECK_THAT(message<not_json>([] { parse_json("f.json", "{\"a\": }"); }),
             ContainsSubstring("f.json: is not valid JSON, near byte 6"));
  CHECK_THAT(message<not_json>([] { parse_json("f.json", ""); }), ContainsSubstring("near byte 0"));
  CHECK_THAT(message<format_error>([] { parse_json("f.json", "1e999"); }),
             ContainsSubstring("range of double"));
  CHECK_THAT(message<format_error>([] { parse_json("f.json", std::string(1000000, '[')); }),
             ContainsSubstring("more than 32 levels"));
  CHECK_THAT(message<not_json>([] { parse_json("f.json", "/* */ {}"); }),
             ContainsSubstring("not valid JSON"));
  CHECK(parse_json("f.json", "/* */ {} // end", {.comments = true}).is_object());
  CHECK(try_parse_json("[1]") == json::array({1}));
}

TEST_CASE("json: configuration, header and index do not end at a NUL byte", "[io]") {
  const mini::tensors t = mini::make();
  const auto refused = [&](const char* name, const std::string& behind) {
    const temporary_directory dir;
    mini::write(dir, t);
    json map;
    for (const auto& [tensor, s] : t) map[tensor] = "model.safetensors";
    write_file(dir / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
    CHECK(message<format_error>([&] { checkpoint::open(dir); }) == "<no exception>");
    write_file(dir / name, read_file(dir / name) + behind);
    const std::string text = message<format_error>([&] { checkpoint::open(dir); });
    CHECK_THAT(text, ContainsSubstring(name));
    return text;
  };
  for (const char* name : {"config.json", "model.safetensors.index.json"}) {
    CHECK_THAT(refused(name, "\0"s), ContainsSubstring("is NUL"));
    CHECK_THAT(refused(name, "\0{\"vocab_size\": 3}"s), ContainsSubstring("is NUL"));
  }
  const temporary_directory dir;
  const auto file = write_file(dir / "x.safetensors", safetensors_bytes("{}\0\0\0\0\0\0"s, ""));
  CHECK_THAT(message<format_error>([&] { safetensors::open(file); }),
             ContainsSubstring("header: is not valid JSON: byte 2 is NUL"));
}
