// SPDX-License-Identifier: MIT
// safetensors and zstd: what is written comes back, and every way a file can be wrong is said clearly.
#include "dsv4/io/safetensors.hpp"

#include "catch.hpp"
#include "data.hpp"
#include "dsv4/io/safetensors_writer.hpp"
#include "io_test.hpp"

using namespace dsv4;
using namespace dsv4::io;
using Catch::Matchers::ContainsSubstring;

namespace {

/// Opens a file made of this JSON and `data` bytes; the message of its format_error.
std::string refused(std::string_view json, std::size_t data, const safetensors_options& options = {}) {
  const temporary_directory dir;
  const auto file = write_file(dir / "x.safetensors", safetensors_bytes(json, std::string(data, '\1')));
  const std::string text = message<format_error>([&] { safetensors::open(file, options); });
  CHECK_THAT(text, ContainsSubstring(file.string()));
  return text;
}
bool accepted(std::string_view json, std::size_t data) {
  const temporary_directory dir;
  safetensors::open(write_file(dir / "x.safetensors", safetensors_bytes(json, std::string(data, '\1'))));
  return true;
}

void check_round_trip(const safetensors& f) {
  REQUIRE(f.tensors().size() == 4);
  CHECK(f.tensors()[0].name == "a.weight");  // alphabetical
  CHECK(f.metadata().at("format") == "pt \"quoted\"");
  const tensor_info& a = f.at("a.weight");
  CHECK(a.type == dtype::bf16);
  CHECK(a.shape == std::vector<dsv4::index_t>{2, 3});
  CHECK(a.elements == 6);
  CHECK(a.bytes == 12);
  CHECK(std::memcmp(a.data, "abcdefghijkl", 12) == 0);
  float v[2];
  std::memcpy(v, f.at("z").data, 8);
  CHECK(v[0] == 1.5f);
  CHECK(v[1] == -2.0f);
  CHECK(f.at("empty").elements == 0);
  CHECK(f.at("scalar").elements == 1);  // no axis: one element
  CHECK(f.find("nothing") == nullptr);
  CHECK_THAT(message<format_error>([&] { f.at("no\nthing"); }), ContainsSubstring("no tensor 'no?thing'"));
}

}  // namespace

TEST_CASE("safetensors: what is written comes back, mapped and compressed", "[io]") {
  const temporary_directory dir;
  const float z[2] = {1.5f, -2.0f};
  std::vector<std::byte> a(12);
  std::memcpy(a.data(), "abcdefghijkl", 12);
  safetensors_writer w;
  w.metadata["format"] = "pt \"quoted\"";
  w.add("z", view<const float, 1>(z, 2));
  w.add("a.weight", dtype::bf16, {2, 3}, a);
  w.add("empty", dtype::f8_e4m3, {0, 7}, nullptr);
  w.add("scalar", dtype::u8, {}, "x");
  w.write(dir / "x.safetensors");
  check_round_trip(safetensors::open(dir / "x.safetensors"));

  const std::string bytes = read_file(dir / "x.safetensors");
  std::uint64_t header;
  std::memcpy(&header, bytes.data(), 8);
  CHECK(header % 8 == 0);
  write_zstd(dir / "x.safetensors.zst", bytes.data(), bytes.size());
  check_round_trip(safetensors::open(dir / "x.safetensors.zst"));
  // A reader can be moved: its tensors stay where they are.
  safetensors first = safetensors::open(dir / "x.safetensors"), second = std::move(first);
  check_round_trip(second);

  CHECK_THROWS_AS(w.add("z", dtype::u8, {1}, "x"), contract_violation);
  CHECK_THROWS_AS(w.add("four", dtype::f4_e2m1, {1}, "x"), contract_violation);
  CHECK_THROWS_AS(w.add("short", dtype::u8, {3}, std::vector<std::byte>(2)), contract_violation);
}

TEST_CASE("safetensors: the file itself", "[io]") {
  const temporary_directory dir;
  const auto open = [](const std::filesystem::path& p) {
    return message<format_error>([&] { safetensors::open(p); });
  };
  CHECK_THAT(open(dir / "none.safetensors"), ContainsSubstring("cannot be opened"));
  CHECK_THAT(open(dir), ContainsSubstring("not a regular file"));
  CHECK_THAT(open(write_file(dir / "empty", "")), ContainsSubstring("truncated: 0 bytes"));
  CHECK_THAT(open(write_file(dir / "seven", "1234567")), ContainsSubstring("truncated: 7 bytes"));
  // Header length beyond the file, and beyond reason.
  std::string beyond = safetensors_bytes("{}", "");
  beyond[0] = 3;
  CHECK_THAT(open(write_file(dir / "beyond", beyond)),
             ContainsSubstring("offset 0: found 3, but only 2 bytes follow"));
  CHECK_THAT(open(write_file(dir / "huge", std::string(16, '\xFF'))),
             ContainsSubstring("found 18446744073709551615"));
}

TEST_CASE("safetensors: the header as JSON", "[io]") {
  CHECK_THAT(refused("", 0), ContainsSubstring("not valid JSON, at offset 8"));
  CHECK_THAT(refused("{\"a\": }", 0), ContainsSubstring("not valid JSON"));
  CHECK_THAT(refused("{} x", 0), ContainsSubstring("not valid JSON"));
  CHECK_THAT(refused("{\"\xFF\": {}}", 0), ContainsSubstring("not valid JSON"));
  CHECK_THAT(refused(std::string(100000, '['), 0), ContainsSubstring("expected an object"));
  CHECK_THAT(refused("7", 0), ContainsSubstring("expected an object"));
  CHECK_THAT(refused(R"({"a": 3})", 0), ContainsSubstring("tensor 'a': found an unexpected number"));
  CHECK_THAT(refused(R"({"a": null})", 0), ContainsSubstring("unexpected null"));
  CHECK_THAT(refused(R"({"a": "s"})", 0), ContainsSubstring("unexpected string"));
  CHECK_THAT(refused(R"({"a": [1]})", 0), ContainsSubstring("unexpected array"));
  CHECK_THAT(refused(R"({"a": {}})", 0), ContainsSubstring("tensor 'a': no dtype"));
  CHECK_THAT(refused(R"({"a": {"dtype": {}}})", 0), ContainsSubstring("unexpected object"));
  CHECK_THAT(refused(R"({"a": {"dtype": ["U8"]}})", 0), ContainsSubstring("unexpected array"));
  CHECK_THAT(refused(R"({"a": {"dtype": "U8", "data_offsets": [0,1]}})", 1), ContainsSubstring("no shape"));
  CHECK_THAT(refused(R"({"a": {"dtype": "U8", "shape": [1]}})", 1),
             ContainsSubstring("found 0 data_offsets"));
  CHECK_THAT(refused(R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}})", 1),
             ContainsSubstring("found 1 data_offsets"));
  CHECK_THAT(refused(R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0,1,2]}})", 1),
             ContainsSubstring("more than two"));
  CHECK_THAT(refused(R"({"a": {"dtype": "U8", "shape": [[1]], "data_offsets": [0,1]}})", 1),
             ContainsSubstring("unexpected array"));
  CHECK_THAT(refused(R"({"a": {"dtype": "U8", "shape": ["1"], "data_offsets": [0,1]}})", 1),
             ContainsSubstring("unexpected string"));
  CHECK_THAT(refused(R"({"a": {"dtype": "U8", "shape": [1.5], "data_offsets": [0,1]}})", 1),
             ContainsSubstring("'1.5'"));
  CHECK_THAT(refused(R"({"a": {"dtype": "U8", "dtype": "U8", "shape": [1], "data_offsets": [0,1]}})", 1),
             ContainsSubstring("'dtype' twice"));
  CHECK_THAT(refused(R"({"a": {"kind": "U8"}})", 1), ContainsSubstring("unknown field 'kind'"));
  CHECK_THAT(refused(R"({"__metadata__": {"a": 1}})", 0), ContainsSubstring("'__metadata__'"));
  CHECK_THAT(refused(R"({"__metadata__": {}, "__metadata__": {}})", 0),
             ContainsSubstring("'__metadata__' twice"));
  CHECK(accepted(R"({"__metadata__": {"a": "b"}}   )", 0));
  CHECK(accepted(R"({"__metadata__": null})", 0));
}

TEST_CASE("safetensors: one tensor", "[io]") {
  const auto a = [](std::string_view type, std::string_view shape, std::string_view offsets) {
    return "{\"a\": {\"dtype\": \"" + std::string(type) + "\", \"shape\": " + std::string(shape) +
           ", \"data_offsets\": " + std::string(offsets) + "}}";
  };
  CHECK(accepted(a("F32", "[2]", "[0,8]"), 8));
  CHECK_THAT(refused(a("F9", "[2]", "[0,8]"), 8),
             ContainsSubstring("tensor 'a': unknown dtype 'F9', expected one of F64, F32"));
  // Every type of the format, as its own reader lists them; parts of a byte only in whole bytes.
  for (const auto& [name, bits] : {std::pair{"BOOL", 8}, {"F4", 4},          {"F6_E2M3", 6},
                                   {"F6_E3M2", 6},       {"U8", 8},          {"I8", 8},
                                   {"F8_E5M2", 8},       {"F8_E4M3", 8},     {"F8_E8M0", 8},
                                   {"F8_E4M3FNUZ", 8},   {"F8_E5M2FNUZ", 8}, {"I16", 16},
                                   {"U16", 16},          {"F16", 16},        {"BF16", 16},
                                   {"I32", 32},          {"U32", 32},        {"F32", 32},
                                   {"C64", 64},          {"F64", 64},        {"I64", 64},
                                   {"U64", 64}}) {
    CAPTURE(name);
    const int bytes = 4 * bits / 8;
    CHECK(accepted(a(name, "[4]", "[0," + std::to_string(bytes) + "]"), static_cast<std::size_t>(bytes)));
    CHECK_THAT(
        refused(a(name, "[4]", "[0," + std::to_string(bytes + 1) + "]"), static_cast<std::size_t>(bytes) + 1),
        ContainsSubstring("expected " + std::to_string(bytes) + " for " + name + " [4]"));
  }
  CHECK_THAT(refused(a("F4", "[3]", "[0,2]"), 2), ContainsSubstring("F4 [3] does not end at a byte"));
  CHECK_THAT(refused(a("F32", "[-2]", "[0,8]"), 8), ContainsSubstring("negative number -2"));
  CHECK_THAT(refused(a("F32", "[4294967296, 4294967296]", "[0,8]"), 8), ContainsSubstring("overflows"));
  CHECK_THAT(refused(a("F32", "[4611686018427387904]", "[0,8]"), 8),
             ContainsSubstring("overflows"));  // its bytes do
  CHECK_THAT(refused(a("F32", "[18446744073709551615]", "[0,8]"), 8), ContainsSubstring("overflows"));
  CHECK_THAT(refused(a("F32", "[99999999999999999999]", "[0,8]"), 8),
             ContainsSubstring("99999999999999999999"));
  CHECK_THAT(
      refused(a("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]"), 4),
      ContainsSubstring("axes"));
  CHECK_THAT(refused(a("F32", "[2]", "[8,0]"), 8), ContainsSubstring("data_offsets [8, 0] are out of order"));
  CHECK_THAT(refused(a("F32", "[2]", "[0,-8]"), 8), ContainsSubstring("negative number -8"));
  CHECK_THAT(refused(a("F32", "[3]", "[0,12]"), 8),
             ContainsSubstring("end beyond the file, which has 8 bytes of data"));
  CHECK_THAT(refused(a("F32", "[3]", "[0,8]"), 8),
             ContainsSubstring("hold 8 bytes, expected 12 for F32 [3]"));
  CHECK_THAT(refused(a("F32", "[2]", "[0,7]"), 7), ContainsSubstring("misaligned: hold 7 bytes, expected 8"));
  // A tensor may begin anywhere, unless alignment is asked for.
  std::string odd =
      R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0,1]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [1,5]}})";
  odd.resize((odd.size() + 7) / 8 * 8, ' ');
  CHECK(accepted(odd, 5));
  CHECK_THAT(refused(odd, 5, {default_max_decompressed, alignment_rule::required}),
             ContainsSubstring("tensor 'b': misaligned: it begins at offset"));
}

TEST_CASE("safetensors: tensors cover the data", "[io]") {
  const auto ab = [](std::string_view a, std::string_view b, std::string_view second = "b") {
    const auto entry = [](std::string_view name, std::string_view offsets) {
      return "\"" + std::string(name) +
             "\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": " + std::string(offsets) + "}";
    };
    return "{" + entry("a", a) + "," + entry(second, b) + "}";
  };
  CHECK(accepted(ab("[0,4]", "[4,8]"), 8));
  CHECK(accepted(ab("[4,8]", "[0,4]"), 8));  // any order in the header
  CHECK_THAT(refused(ab("[0,4]", "[2,6]"), 6),
             ContainsSubstring("tensor 'b': begins at offset") && ContainsSubstring("overlaps 'a'"));
  CHECK_THAT(refused(ab("[0,4]", "[0,4]"), 4), ContainsSubstring("overlaps 'a'"));
  CHECK_THAT(refused(ab("[0,4]", "[5,9]"), 9), ContainsSubstring("leaves a hole after 'a'"));
  CHECK_THAT(refused(ab("[1,5]", "[5,9]"), 9), ContainsSubstring("leaves a hole after the header"));
  CHECK_THAT(refused(ab("[0,4]", "[4,8]"), 10),
             ContainsSubstring("2 bytes at offset") && ContainsSubstring("belong to no tensor"));
  CHECK_THAT(refused(ab("[0,4]", "[4,8]"), 7),
             ContainsSubstring("tensor 'b'") && ContainsSubstring("end beyond the file"));
  CHECK_THAT(refused(ab("[0,4]", "[4,8]", "a"), 8), ContainsSubstring("tensor 'a' appears twice"));
}

TEST_CASE(
    "safetensors: every truncation and every changed byte of a small file ends in format_error or in a file",
    "[io]") {
  const temporary_directory dir;
  const std::string good = safetensors_bytes(
      R"({"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}})",
      "123456789");
  const auto file = dir / "x.safetensors";
  for (std::size_t n = 0; n < good.size(); ++n) {
    write_file(file, std::string_view(good).substr(0, n));
    CHECK_THROWS_AS(safetensors::open(file), format_error);
  }
  int refused = 0;
  for (std::size_t at = 0; at < good.size(); ++at)
    for (const char c : {'\0', '"', '{', '9', '-', '\xFF'}) {
      std::string bad = good;
      bad[at] = c;
      write_file(file, bad);
      try {
        safetensors::open(file);
      } catch (const format_error&) {
        ++refused;
      }
    }
  CHECK(refused > 400);
}

TEST_CASE("zstd: limits, truncation, corruption", "[io]") {
  const temporary_directory dir;
  const auto file = dir / "x.zst";
  const std::string text(1'000'000, 'x');  // compresses to some 50 bytes: more than 16-fold
  write_zstd(file, text.data(), text.size());
  const std::string packed = read_file(file);
  const owned_bytes all = read_zstd(file);
  CHECK(std::string_view(reinterpret_cast<const char*>(all.data()), all.size) == text);
  CHECK(reinterpret_cast<std::uintptr_t>(all.data()) % alignment == 0);
  CHECK(read_zstd(file, text.size()).size == text.size());
  CHECK_THAT(message<format_error>([&] { read_zstd(file, text.size() - 1); }),
             ContainsSubstring("more than the limit of 999999"));

  // Frames follow one another, and may say nothing of their size.
  write_file(file, packed + packed);
  CHECK(read_zstd(file).size == 2 * text.size());
  CHECK_THAT(message<format_error>([&] { read_zstd(file, 2 * text.size() - 1); }),
             ContainsSubstring("limit"));
  ZSTD_CCtx* c = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
  std::string unsized(ZSTD_compressBound(text.size()), '\0');
  unsized.resize(ZSTD_compress2(c, unsized.data(), unsized.size(), text.data(), text.size()));
  ZSTD_freeCCtx(c);
  write_file(file, unsized);
  CHECK(read_zstd(file).size == text.size());
  CHECK(read_zstd(file, text.size()).size == text.size());
  CHECK_THAT(message<format_error>([&] { read_zstd(file, 999); }), ContainsSubstring("limit of 999"));

  for (std::size_t n = 0; n < packed.size(); ++n) {
    write_file(file, packed.substr(0, n));
    CHECK_THROWS_AS(read_zstd(file), format_error);
  }
  CHECK_THAT(message<format_error>([&] { read_zstd(write_file(file, packed.substr(0, packed.size() - 1))); }),
             ContainsSubstring("truncated"));
  CHECK_THAT(message<format_error>([&] { read_zstd(write_file(file, "not zstd at all")); }),
             ContainsSubstring("corrupt"));
  CHECK_THAT(message<format_error>([&] { read_zstd(write_file(file, "")); }), ContainsSubstring("truncated"));
}

TEST_CASE("safetensors: golden files", "[io][golden]") {
  const auto rope = golden("rope/tables.safetensors");
  if (!rope) SKIP("golden/rope is not present");
  const safetensors tables = safetensors::open(*rope);
  CHECK(tables.at("positions").elements == 15);
  const auto taps = golden("official/flash-mini/taps.safetensors.zst");
  if (!taps) SKIP("golden/official/flash-mini is not present");
  const safetensors tapped = safetensors::open(*taps);
  CHECK(tapped.find("input_ids") != nullptr);
}
