// SPDX-License-Identifier: MIT
// GGUF: the container, and what is refused.  A checkpoint there and back: unit/golden/engines.cpp.
#include "dsv4/io/gguf.hpp"

#include "catch.hpp"
#include "dsv4/core/error.hpp"
#include "dsv4/io/gguf_deepseek4.hpp"
#include "dsv4/io/gguf_writer.hpp"
#include "io_test.hpp"

namespace dsv4_test {

using namespace dsv4;
using namespace dsv4::io;
using Catch::Matchers::ContainsSubstring;

namespace {

template <class V>
std::function<void(const gguf_writer::sink&)> giving(std::vector<V> v) {
  return [v](const gguf_writer::sink& to) { to(v.data(), v.size() * sizeof(V)); };
}

/// A small file with an entry of every kind that is written, and a tensor of every layout.
std::string small_file() {
  temporary_directory dir;
  gguf_writer w;
  w.put("general.architecture", std::string_view("deepseek4"));
  w.put("count", std::uint32_t{7});
  w.put("eps", 1e-6f);
  w.put("flag", true);
  w.put("ratios", std::vector<std::uint32_t>{0, 4, 128});
  const std::byte raw[] = {std::byte{1}, std::byte{255}};
  w.put("raw", std::span<const std::byte>(raw));
  w.add("matrix", gguf_type::f32, {2, 3}, giving(std::vector<float>{0, 1, 2, 3, 4, 5}));
  std::vector<std::uint8_t> q8(34);
  q8[1] = 0x3C;  // the half 1.0
  for (std::size_t i = 0; i < 32; ++i) q8[2 + i] = static_cast<std::uint8_t>(i);
  w.add("codes", gguf_type::q8_0, {1, 32}, giving(q8));
  w.add("ids", gguf_type::i32, {4}, giving(std::vector<std::int32_t>{3, 2, 1, 0}));
  w.write(dir / "x.gguf");
  return read_file(dir / "x.gguf");
}

gguf parsed(const std::string& bytes) {
  return gguf::parse("x.gguf", {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
}
template <class V>
std::string with(std::string bytes, std::size_t at, V v) {
  std::memcpy(bytes.data() + at, &v, sizeof v);
  return bytes;
}

}  // namespace

TEST_CASE("gguf: what is written is read", "[io]") {
  const std::string bytes = small_file();
  const gguf g = parsed(bytes);
  CHECK(g.text("general.architecture") == "deepseek4");
  CHECK(g.integer("count") == 7);
  CHECK(g.real("eps") == static_cast<double>(1e-6f));
  CHECK(g.integer("flag") == 1);
  CHECK(g.reals("ratios") == std::vector<double>{0, 4, 128});
  CHECK(g.bytes("raw")->size() == 2);
  CHECK_FALSE(g.integer("none"));
  REQUIRE(g.tensors().size() == 3);
  const gguf_tensor* m = g.find("matrix");
  REQUIRE(m);
  CHECK(m->shape == std::vector<index_t>{2, 3});
  CHECK(m->bytes == 24);
  float third;
  std::memcpy(&third, m->data + 8, sizeof third);
  CHECK(third == 2);
  CHECK(g.find("codes")->bytes == 34);
  for (const gguf_tensor& t : g.tensors())
    CHECK((t.data - reinterpret_cast<const std::byte*>(bytes.data())) % 32 == 0);
  CHECK_THAT(message<format_error>([&] { g.integer("eps"); }),
             ContainsSubstring("'eps': expected a whole number"));
  CHECK_THAT(message<format_error>([&] { g.text("count"); }), ContainsSubstring("expected a text"));
  CHECK_THAT(message<format_error>([&] { config_of(g); }), ContainsSubstring("is missing"));
}

TEST_CASE("gguf: no prefix of a file is read beyond its end", "[io]") {
  const std::string bytes = small_file();
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    const std::string cut = bytes.substr(0, n);
    try {
      const gguf g = parsed(cut);
      // Only padding behind the last tensor may be missing.
      CHECK(n + 32 > bytes.size());
    } catch (const format_error&) {
    }
  }
}

TEST_CASE("gguf: what cannot be is refused by name", "[io]") {
  const std::string bytes = small_file();
  const auto refused = [](const std::string& b) { return message<format_error>([&] { parsed(b); }); };
  constexpr std::size_t version = 4, tensors = 8, entries = 16;
  CHECK_THAT(refused("no"), ContainsSubstring("ends at byte 2"));
  CHECK_THAT(refused(with(bytes, 0, 'g')), ContainsSubstring("does not begin with 'GGUF'"));
  CHECK_THAT(message<unsupported>([&] { parsed(with(bytes, version, std::uint32_t{4})); }),
             ContainsSubstring("version 4"));
  CHECK_THAT(message<unsupported>([&] { parsed(with(bytes, version, std::uint32_t{3} << 24)); }),
             ContainsSubstring("big-endian"));
  CHECK_THAT(refused(with(bytes, tensors, std::uint64_t{1} << 60)), ContainsSubstring("cannot hold"));
  CHECK_THAT(refused(with(bytes, entries, std::uint64_t{1} << 60)), ContainsSubstring("cannot hold"));
  // The first tensor's info: u64 length, "matrix", u32 axes, two sizes, type, offset.
  const std::size_t at = bytes.find("matrix"), axes = at + 6, sizes = axes + 4, type = sizes + 16,
                    offset = type + 4;
  REQUIRE(at != bytes.npos);
  CHECK_THAT(refused(with(bytes, axes, std::uint32_t{5})), ContainsSubstring("5 axes"));
  CHECK_THAT(refused(with(bytes, sizes, ~std::uint64_t{0})), ContainsSubstring("overflow"));
  CHECK_THAT(refused(with(bytes, sizes, std::uint64_t{1} << 40)), ContainsSubstring("beyond the file's end"));
  CHECK_THAT(refused(with(bytes, type, std::uint32_t{8})), ContainsSubstring("whole blocks of 32 (Q8_0)"));
  CHECK_THAT(refused(with(bytes, offset, std::uint64_t{1})), ContainsSubstring("alignment"));
  CHECK_THAT(refused(with(bytes, offset, ~std::uint64_t{31})), ContainsSubstring("beyond the file's end"));
  std::string twice = bytes;  // "eps" and "raw" are both of three letters
  twice.replace(twice.find("raw"), 3, "eps");
  CHECK_THAT(refused(twice), ContainsSubstring("'eps' is there twice"));
  // A type that is not known is listed without its bytes.
  const std::string unknown = with(bytes, type, std::uint32_t{12});
  const gguf g = parsed(unknown);
  CHECK(g.find("matrix")->data == nullptr);
  // A length that reaches beyond the file.
  const std::size_t key = bytes.find("count") - 8;
  CHECK_THAT(refused(with(bytes, key, ~std::uint64_t{0})), ContainsSubstring("ends at byte"));
}

}  // namespace dsv4_test
