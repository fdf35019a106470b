// SPDX-License-Identifier: MIT
// .npy and .npz: what numpy writes is read, and every way a file can be wrong is refused with its place.
#include "dsv4/io/npy.hpp"

#include <functional>

#include "../io/io_test.hpp"
#include "catch.hpp"

namespace dsv4_test::golden_npy {

using namespace dsv4;
using Catch::Matchers::ContainsSubstring;

namespace {

template <class T>
std::string bytes_of(T v) {
  return {reinterpret_cast<const char*>(&v), sizeof v};
}

/// A version 1 file, right or wrong.
std::string npy_bytes(const std::string& header, const std::string& data) {
  return "\x93NUMPY" + std::string("\1\0", 2) + bytes_of(static_cast<std::uint16_t>(header.size())) + header +
         data;
}
std::string header(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }          \n";
}

struct zip_member {
  std::string name, data;
  unsigned method = 0;
  bool zip64 = true;  ///< as numpy.savez: sizes of the local header in its extra field
};
/// A zip of stored members; `spoil` may change the directory's bytes.
std::string zip_bytes(const std::vector<zip_member>& members,
                      const std::function<void(std::string&)>& spoil = {}) {
  std::string out, directory;
  for (const auto& m : members) {
    const auto at = static_cast<std::uint32_t>(out.size()), size = static_cast<std::uint32_t>(m.data.size());
    const std::uint32_t crc =
        io::detail::crc32(reinterpret_cast<const std::byte*>(m.data.data()), m.data.size());
    const std::string extra = m.zip64 ? bytes_of<std::uint16_t>(1) + bytes_of<std::uint16_t>(16) +
                                            bytes_of<std::uint64_t>(size) + bytes_of<std::uint64_t>(size)
                                      : "";
    const auto half = [](unsigned v) { return bytes_of(static_cast<std::uint16_t>(v)); };
    const std::string names = half(static_cast<unsigned>(m.name.size()));
    out += "PK\3\4" + half(45) + half(0) + half(m.method) + bytes_of<std::uint32_t>(0) + bytes_of(crc) +
           bytes_of(m.zip64 ? ~0u : size) + bytes_of(m.zip64 ? ~0u : size) + names +
           half(static_cast<unsigned>(extra.size())) + m.name + extra + m.data;
    directory += "PK\1\2" + half(45) + half(45) + half(0) + half(m.method) + bytes_of<std::uint32_t>(0) +
                 bytes_of(crc) + bytes_of(size) + bytes_of(size) + names + half(0) + half(0) + half(0) +
                 half(0) + bytes_of<std::uint32_t>(0) + bytes_of(at) + m.name;
  }
  if (spoil) spoil(directory);
  const auto count = static_cast<std::uint16_t>(members.size());
  return out + directory + "PK\5\6" + std::string(4, '\0') + bytes_of(count) + bytes_of(count) +
         bytes_of(static_cast<std::uint32_t>(directory.size())) +
         bytes_of(static_cast<std::uint32_t>(out.size())) + std::string(2, '\0');
}

std::string refused(const std::string& bytes, const char* name = "x.npy") {
  const temporary_directory dir;
  const auto file = write_file(dir / name, bytes);
  const std::string text = message<format_error>([&] { io::npy::open(file); });
  CHECK_THAT(text, ContainsSubstring(file.string()));
  return text;
}

}  // namespace

TEST_CASE("npy: types, shapes, order") {
  const temporary_directory dir;
  const float values[] = {1, -2, 3, 4, 5, 6};
  const std::string data(reinterpret_cast<const char*>(values), sizeof values);
  const auto f = io::npy::open(write_file(dir / "a.npy", npy_bytes(header("<f4", "(2, 3)"), data)));
  REQUIRE(f.arrays().size() == 1);
  const io::npy_array& a = f.arrays()[0];
  CHECK(a.type == dtype::f32);
  CHECK(a.shape == std::vector<dsv4::index_t>{2, 3});
  CHECK_FALSE(a.fortran_order);
  CHECK(std::memcmp(a.data, values, sizeof values) == 0);
  const auto only = [&](const std::string& h, std::size_t bytes) {
    const auto file = io::npy::open(write_file(dir / "x.npy", npy_bytes(h, data.substr(0, bytes))));
    io::npy_array array = file.arrays().at(0);
    array.data = nullptr;  // it goes with the file
    return array;
  };
  CHECK(only(header("<f4", "(2, 3)", "True"), 24).fortran_order);
  CHECK(only(header("<f8", "()"), 8).elements == 1);
  CHECK(only(header("<i8", "(0, 5)"), 0).elements == 0);
  CHECK(only(header("<V2", "(3,)"), 6).type == dtype::bf16);
  for (const auto& [descr, type] : {std::pair{"|u1", dtype::u8},
                                    {"<u2", dtype::u16},
                                    {"<u4", dtype::u32},
                                    {"<u8", dtype::u64},
                                    {"<c8", dtype::c64},
                                    {"|b1", dtype::boolean}}) {
    const auto bytes = static_cast<std::size_t>(bits_of(type) / 8);
    CHECK(only(header(descr, "(2,)"), 2 * bytes).type == type);
  }
}

TEST_CASE("npz: members as numpy.savez stores them") {
  const temporary_directory dir;
  const std::string one = npy_bytes(header("<i4", "(1,)"), std::string(4, '\7'));
  for (const bool zip64 : {true, false}) {
    const auto f = io::npy::open(
        write_file(dir / "a.npz", zip_bytes({{"kv_norm-3.npy", one, 0, zip64}, {"../b", one, 0, zip64}})));
    REQUIRE(f.arrays().size() == 2);
    CHECK(f.arrays()[0].name == "kv_norm-3");
    CHECK(f.arrays()[1].name == "../b");  // a key, never a path
    CHECK(f.arrays()[1].bytes == 4);
  }
}

TEST_CASE("npy: malformed files are refused") {
  const std::string data(24, '\0');
  CHECK_THAT(refused(""), ContainsSubstring("NUMPY"));
  CHECK_THAT(refused("\x93NUMPY"), ContainsSubstring("NUMPY"));
  CHECK_THAT(refused("\x93NUMPY\x09" + std::string(20, '\0')), ContainsSubstring("version 9"));
  CHECK_THAT(refused("\x93NUMPY" + std::string("\2\0", 2) + "\xff\xff\xff\x7f{}"),
             ContainsSubstring("header length"));
  CHECK_THAT(refused(npy_bytes(header("<f4", "(2, 3)"), data.substr(1))),
             ContainsSubstring("holds 23 bytes"));
  CHECK_THAT(refused(npy_bytes(header("<f4", "(2, 3)"), data + "x")), ContainsSubstring("holds 25 bytes"));
  CHECK_THAT(refused(npy_bytes(header("<f4", "(4611686018427387904, 4)"), data)),
             ContainsSubstring("digits"));
  CHECK_THAT(refused(npy_bytes(header("<f4", "(999999999999999999, 999999999999999999)"), data)),
             ContainsSubstring("overflows"));
  CHECK_THAT(refused(npy_bytes(header("<f4", "(-1,)"), data)), ContainsSubstring("expected a size"));
  CHECK_THAT(refused(npy_bytes(header("<f4", "(2, 3"), data)), ContainsSubstring("npy header"));
  CHECK_THAT(refused(npy_bytes(header("<f4", "(2, 3)", "Maybe"), data)), ContainsSubstring("True or False"));
  CHECK_THAT(refused(npy_bytes("{'descr': '<f4', 'shape': (6,), }", data)),
             ContainsSubstring("without one of them"));
  CHECK_THAT(refused(npy_bytes("{'descr': '<f4', 'descr': '<f4'}", data)),
             ContainsSubstring("the key 'descr'"));
  CHECK_THAT(refused(npy_bytes("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}", data)),
             ContainsSubstring("structured"));
  CHECK_THAT(refused(npy_bytes("{'descr': '<f4", data)), ContainsSubstring("closing quote"));
  CHECK_THAT(refused(npy_bytes(header("<f4", "(6,)") + "x", data)), ContainsSubstring("end of the header"));
  const temporary_directory dir;
  for (const char* descr : {">f4", "<c8", "|O", "<U7"})
    CHECK_THAT(message<unsupported>(
                   [&] { io::npy::open(write_file(dir / "t.npy", npy_bytes(header(descr, "(6,)"), data))); }),
               ContainsSubstring(descr));
}

TEST_CASE("npz: malformed archives are refused") {
  const std::string one = npy_bytes(header("<i4", "(1,)"), std::string(4, '\7'));
  const std::string good = zip_bytes({{"a.npy", one}});
  const temporary_directory dir;
  CHECK_THAT(refused("PK", "x.npz"), ContainsSubstring("not a zip"));
  // Every truncation is refused, none is read beyond.
  for (std::size_t n = 0; n < good.size(); ++n)
    CHECK_THAT(refused(good.substr(0, n), "x.npz"), ContainsSubstring("x.npz"));
  const auto spoilt = [&](std::size_t at, std::uint32_t v) {
    return refused(zip_bytes({{"a.npy", one}}, [&](std::string& d) { std::memcpy(d.data() + at, &v, 4); }),
                   "x.npz");
  };
  CHECK_THAT(spoilt(42, 0x7fffffff), ContainsSubstring("where there is no member"));
  CHECK_THAT(spoilt(42, 1), ContainsSubstring("where there is no member"));
  CHECK_THAT(spoilt(16, 12345), ContainsSubstring("CRC-32"));
  CHECK_THAT(spoilt(20, 7), ContainsSubstring("two sizes differ"));
  CHECK_THAT(spoilt(28, 0xffff), ContainsSubstring("leaves it"));
  const std::uint32_t huge = 0x7ffffff0;
  CHECK_THAT(refused(zip_bytes({{"a.npy", one}},
                               [&](std::string& d) {
                                 std::memcpy(d.data() + 20, &huge, 4), std::memcpy(d.data() + 24, &huge, 4);
                               }),
                     "x.npz"),
             ContainsSubstring("ends beyond the file"));
  CHECK_THAT(message<unsupported>(
                 [&] { io::npy::open(write_file(dir / "c.npz", zip_bytes({{"a\n.npy", one, 8}}))); }),
             ContainsSubstring("member 'a?.npy': is compressed"));
  // Any one byte wrong: refused, or read, but never beyond the file (the sanitizers watch).
  for (std::size_t i = 0; i < good.size(); ++i)
    for (const char flip : {'\x01', '\x80', '\xff'}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      const auto file = write_file(dir / "y.npz", bad);
      try {
        io::npy::open(file);
      } catch (const error&) {
      }
    }
}

}  // namespace dsv4_test::golden_npy
