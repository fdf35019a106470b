// SPDX-License-Identifier: MIT
// Tables of Engram: what is wrong with one is said by name; one of V4.1's size, a sparse file of 101 GB, opens at once.
#include "dsv4/io/engram_tables.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <random>

#include "catch.hpp"
#include "io_test.hpp"

using namespace dsv4;
using namespace dsv4::io;
using Catch::Matchers::ContainsSubstring;

namespace {

const engram::hash_settings small{
    .layers = {1}, .base_sizes = {50, 50}, .heads = 2, .compressed_vocabulary = 90};
const engram::hash_settings v41{.layers = {1},
                                .base_sizes = {16'000'000, 16'000'000, 16'000'000},
                                .heads = 8,
                                .compressed_vocabulary = 99'092};

struct entry {
  const char* type;
  dsv4::index_t rows, columns;
};
/// A header with both tensors, padded so that the data begin at a multiple of 8.
std::string header(const entry& weight, const entry& scale, const char* scale_name = "scale") {
  const auto tensor = [](const std::string& name, const entry& e, dsv4::index_t at) {
    return "\"layers.1.engram.embed." + name + "\":{\"dtype\":\"" + e.type + "\",\"shape\":[" +
           std::to_string(e.rows) + "," + std::to_string(e.columns) + "],\"data_offsets\":[" +
           std::to_string(at) + "," + std::to_string(at + e.rows * e.columns) + "]}";
  };
  std::string json =
      "{" + tensor("weight", weight, 0) + "," + tensor(scale_name, scale, weight.rows * weight.columns) + "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  return json;
}

}  // namespace

TEST_CASE("engram tables: rows are read, what is wrong is said by name", "[io][engram]") {
  const temporary_directory dir;
  const auto path = dir / "model.safetensors";
  const dsv4::index_t rows = engram::hash_tables::of(small).rows[0], width = 64;
  std::string data(usize(rows * width), '\x38'), scales(usize(rows * 2), '\x7f');  // 1.0 and 2^0
  data[usize(7 * width + 40)] = '\x40';                                            // 2.0
  scales[7 * 2 + 1] = '\x80';                                                      // 2^1
  data[usize(9 * width + 3)] = '\x7f';                                             // NaN
  const entry weight{"F8_E4M3", rows, width}, scale{"F8_E8M0", rows, 2};
  const auto write = [&](const std::string& json) {
    const std::size_t all = data.size() + scales.size();
    std::string bytes = data + scales;
    bytes.resize(all);
    write_file(path, safetensors_bytes(json, bytes));
  };
  const auto said = [&] { return message<format_error>([&] { engram_tables::open(dir, small, width); }); };

  write(header(weight, scale));
  {
    const engram_tables t = engram_tables::open(dir, small, width);
    tensor<float, 1> out(2 * width);
    const dsv4::index_t wanted[] = {7, 0};
    t.prefetch(0, {wanted, 2});
    t.read<float>(0, {wanted, 2}, out);
    CHECK(out[0] == 1);
    CHECK(out[32] == 2);
    CHECK(out[40] == 4);
    CHECK(out[width] == 1);
    const dsv4::index_t damaged[] = {3, 9};
    CHECK_THAT(message<format_error>([&] { t.read<float>(0, {damaged, 2}, out); }),
               ContainsSubstring("'layers.1.engram.embed.weight': row 9, channel 3") &&
                   ContainsSubstring("model.safetensors"));
    const dsv4::index_t outside[] = {rows};
    CHECK_THROWS_AS(t.prefetch(0, {outside, 1}), contract_violation);
  }
  write(header(weight, scale, "scales"));
  CHECK_THAT(said(), ContainsSubstring("'layers.1.engram.embed.scale' is missing, expected F8_E8M0"));
  engram::hash_settings other = small;
  other.heads = 3;
  write(header(weight, scale));
  CHECK_THAT(
      message<format_error>([&] { engram_tables::open(dir, other, width); }),
      ContainsSubstring("'layers.1.engram.embed.weight': found F8_E4M3 [" + std::to_string(rows)) &&
          ContainsSubstring("expected F8_E4M3 [" + std::to_string(engram::hash_tables::of(other).rows[0])));
  CHECK_THAT(message<format_error>([&] { engram_tables::open(dir, small, 32); }), ContainsSubstring("64]"));
  write(header({"I8", rows, width}, scale));
  CHECK_THAT(said(), ContainsSubstring("found I8"));
  write_file(path, read_file(path).substr(0, 5000));
  CHECK_THAT(said(), ContainsSubstring("model.safetensors"));
  // A hash of two layers wants two tables.
  other = small;
  other.layers = {1, 3};
  write(header(weight, scale));
  CHECK_THAT(message<format_error>([&] { engram_tables::open(dir, other, width); }),
             ContainsSubstring("'layers.3.engram.embed.weight' is missing"));
}

TEST_CASE("engram tables: 101 GB open at once, and cost the rows that are read", "[io][engram]") {
  const temporary_directory dir;
  const engram::hash_tables hash = engram::hash_tables::of(v41);
  const dsv4::index_t rows = hash.rows[0], width = 256, blocks = width / engram::scaled_channels;
  REQUIRE(rows == 384'006'168);
  const std::string json = header({"F8_E4M3", rows, width}, {"F8_E8M0", rows, blocks});
  const auto path = write_file(dir / "model.safetensors", safetensors_bytes(json, ""));
  const auto data = static_cast<::off_t>(8 + json.size());
  if (::truncate(path.c_str(), data + rows * (width + blocks)) != 0) SKIP("no file of 101 GB here");
  struct ::stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  if (status.st_blocks > 1 << 16) SKIP("the file system has no sparse files");

  // The rows of a thousand tokens, and something to be read in those of the first.
  constexpr dsv4::index_t tokens = 1000;
  tensor<dsv4::index_t, 2> wanted(tokens, hash.columns());
  std::mt19937_64 random(1);
  for (dsv4::index_t t = 0; t < tokens; ++t) {
    std::int32_t x[4];
    for (std::int32_t& id : x) id = static_cast<std::int32_t>(random() % 99'092);
    hash.row_numbers(0, {x, 4}, wanted[t]);
  }
  const int file = ::open(path.c_str(), O_WRONLY);
  for (dsv4::index_t c = 0; c < hash.columns(); ++c) {
    const std::string codes(usize(width), '\x38'), scales(usize(blocks), static_cast<char>(127 + c % 4));
    const auto r = static_cast<::off_t>(wanted(0, c));
    CHECK(::pwrite(file, codes.data(), codes.size(), data + r * width) == width);
    CHECK(::pwrite(file, scales.data(), scales.size(), data + rows * width + r * blocks) == blocks);
  }
  ::close(file);

  using clock = std::chrono::steady_clock;
  const auto microseconds = [](clock::time_point from) {
    return std::chrono::duration<double, std::micro>(clock::now() - from).count();
  };
  auto start = clock::now();
  const engram_tables t = engram_tables::open(dir, v41, width);
  const double opened = microseconds(start);
  CHECK(opened < 1e6);
  tensor<float, 1> out(hash.columns() * width);
  t.read<float>(0, read_only(wanted)[0], out);
  for (dsv4::index_t c = 0; c < hash.columns(); ++c)
    for (dsv4::index_t d = 0; d < width; ++d)
      REQUIRE(out[c * width + d] == static_cast<float>(dsv4::index_t{1} << (c % 4)));

  start = clock::now();
  for (dsv4::index_t i = 1; i < tokens; ++i) t.prefetch(0, read_only(wanted)[i]);
  const double asked = microseconds(start) / (tokens - 1);
  start = clock::now();
  for (dsv4::index_t i = 1; i < tokens; ++i) t.read<float>(0, read_only(wanted)[i], out);
  const double first = microseconds(start) / (tokens - 1);
  start = clock::now();
  for (dsv4::index_t i = 1; i < tokens; ++i) t.read<float>(0, read_only(wanted)[i], out);
  const double again = microseconds(start) / (tokens - 1);
  std::printf(
      "engram table of V4.1, 101 GB: opened in %.0f us; a token's %lld rows, %lld bytes: asked for in %.1f "
      "us, read in "
      "%.1f us the first time (holes), %.1f us from memory\n",
      opened, static_cast<long long>(hash.columns()),
      static_cast<long long>(hash.columns() * (width + blocks)), asked, first, again);
}
