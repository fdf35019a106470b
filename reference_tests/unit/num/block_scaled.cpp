// SPDX-License-Identifier: MIT
// Block-scaled matrices: which code, which scale, which nibble.
#include "dsv4/num/block_scaled.hpp"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "catch.hpp"

namespace dsv4 {
namespace {

std::byte byte(unsigned b) { return static_cast<std::byte>(b); }

// A matrix and the memory it looks at.  One stray byte in front: checkpoints do not align.
struct owned_matrix {
  std::vector<std::byte> data, scale;
  weight_matrix w;

  owned_matrix(dtype type, index_t rows, index_t cols, index_t tile_rows, index_t tile_cols,
               dtype scale_type) {
    w = {.type = type,
         .rows = rows,
         .cols = cols,
         .scale_type = scale_type,
         .tile_rows = tile_rows,
         .tile_cols = tile_cols};
    data.resize(static_cast<std::size_t>(1 + rows * w.row_bytes()));
    w.data = data.data() + 1;
    const index_t scales = (rows + tile_rows - 1) / tile_rows * w.scale_cols();
    scale.resize(static_cast<std::size_t>(1 + scales * bits_of(scale_type) / 8));
    w.scale = scale.data() + 1;
  }
  void fill(unsigned seed) {
    std::mt19937 random(seed);
    for (auto& b : data) {
      unsigned v = random() & 255;
      if (w.type == dtype::f8_e4m3 && (v & 127) == 127) v = 0;  // no NaN in a weight
      b = byte(v);
    }
    for (index_t i = 0; i < scales(); ++i)
      if (w.scale_type == dtype::f32)
        set_scale(i, std::ldexp(1.0f + float(random() % 1024) / 1024, int(random() % 20) - 10));
      else
        scale[static_cast<std::size_t>(1 + i)] = byte(117 + random() % 20);
  }
  index_t scales() const { return index_t(scale.size() - 1) * 8 / bits_of(w.scale_type); }
  void set_scale(index_t i, float s) { std::memcpy(scale.data() + 1 + 4 * i, &s, 4); }
  unsigned data_byte(index_t i) const {
    return std::to_integer<unsigned>(data[static_cast<std::size_t>(1 + i)]);
  }
  double scale_value(index_t i) const {
    if (w.scale_type == dtype::f8_e8m0)
      return std::ldexp(1.0, int(std::to_integer<unsigned>(scale[static_cast<std::size_t>(1 + i)])) - 127);
    float s;
    std::memcpy(&s, scale.data() + 1 + 4 * i, 4);
    return s;
  }
};

}  // namespace

TEST_CASE("FP8 matrices, whole and partial tiles, both scale types", "[num]") {
  for (const dtype scale_type : {dtype::f8_e8m0, dtype::f32})
    for (const auto& [rows, cols] :
         {std::pair<index_t, index_t>{128, 128}, {130, 257}, {1, 1}, {127, 300}, {256, 129}}) {
      owned_matrix m(dtype::f8_e4m3, rows, cols, fp8_tile, fp8_tile, scale_type);
      m.fill(7);
      const index_t scale_cols = cols / 128 + (cols % 128 != 0);
      REQUIRE(m.w.scale_cols() == scale_cols);
      unsigned wrong = 0;
      for (index_t o = 0; o < rows; ++o)
        for (index_t i = 0; i < cols; ++i) {
          const double code = e4m3::from_bits(m.data_byte(o * cols + i)).decode();
          wrong += m.w.at(o, i) != code * m.scale_value(o / 128 * scale_cols + i / 128);
        }
      CHECK(wrong == 0);
    }
}

TEST_CASE("FP4 matrices: low nibble first, one scale per row and 32 columns", "[num]") {
  SECTION("order of the nibbles") {
    owned_matrix m(dtype::f4_e2m1, 1, 4, 1, fp4_tile_cols, dtype::f8_e8m0);
    m.data[1] = byte(0x21);  // columns 0, 1: codes 1, 2
    m.data[2] = byte(0xF4);  // columns 2, 3: codes 4, 15
    m.scale[1] = byte(128);  // times 2
    CHECK(m.w.at(0, 0) == 2 * 0.5);
    CHECK(m.w.at(0, 1) == 2 * 1.0);
    CHECK(m.w.at(0, 2) == 2 * 2.0);
    CHECK(m.w.at(0, 3) == 2 * -6.0);
    CHECK(m.w.row_bytes() == 2);
  }
  for (const dtype scale_type : {dtype::f8_e8m0, dtype::f32})
    for (const auto& [rows, cols] : {std::pair<index_t, index_t>{3, 64}, {5, 48}, {2, 2}, {1, 98}}) {
      owned_matrix m(dtype::f4_e2m1, rows, cols, 1, fp4_tile_cols, scale_type);
      m.fill(11);
      const index_t scale_cols = cols / 32 + (cols % 32 != 0);
      unsigned wrong = 0;
      for (index_t o = 0; o < rows; ++o)
        for (index_t i = 0; i < cols; ++i) {
          const unsigned pair = m.data_byte((o * cols + i) / 2), code = i % 2 ? pair / 16 : pair % 16;
          wrong += m.w.at(o, i) != e2m1::from_bits(code).decode() * m.scale_value(o * scale_cols + i / 32);
        }
      CHECK(wrong == 0);
    }
}

TEST_CASE("plain matrices have no scale", "[num]") {
  const float v[2] = {0.1f, -3.5f};
  for (const dtype type : {dtype::f32, dtype::bf16, dtype::f16}) {
    owned_matrix m(type, 2, 1, 1, 1, dtype::f8_e8m0);
    m.w.scale = nullptr;
    for (index_t o = 0; o < 2; ++o) {
      const std::uint16_t half = type == dtype::bf16 ? bf16::encode(v[o]).bits : f16::encode(v[o]).bits;
      std::memcpy(m.data.data() + 1 + o * m.w.row_bytes(),
                  type == dtype::f32 ? static_cast<const void*>(&v[o]) : &half,
                  static_cast<std::size_t>(m.w.row_bytes()));
    }
    CHECK(m.w.at(1, 0) == -3.5);
    CHECK(m.w.at(0, 0) == (type == dtype::f32    ? 0.1f
                           : type == dtype::bf16 ? 0.10009765625
                                                 : 0.0999755859375));
    CHECK_FALSE(m.w.quantised());
  }
}

TEST_CASE("the ends of the scale range", "[num]") {
  owned_matrix m(dtype::f8_e4m3, 1, 2, fp8_tile, fp8_tile, dtype::f8_e8m0);
  m.data[1] = byte(0x38);  // 1
  m.data[2] = byte(0x7E);  // 448
  m.scale[1] = byte(0);
  CHECK(m.w.at(0, 0) == 0x1p-127);
  m.scale[1] = byte(254);
  CHECK(m.w.at(0, 1) == 448 * 0x1p127);  // beyond float, fine in double
  m.scale[1] = byte(255);
  CHECK(m.w.at(0, 0) != m.w.at(0, 0));  // NaN: refused when a checkpoint is opened
}

TEST_CASE("a matrix of a type without arithmetic", "[num]") {
  owned_matrix m(dtype::i64, 1, 1, 1, 1, dtype::f8_e8m0);
  CHECK_THROWS_AS(m.w.at(0, 0), internal_error);
  CHECK_THROWS_WITH(m.w.at(0, 0), Catch::Matchers::ContainsSubstring("I64"));
  CHECK_FALSE(weight_matrix{}.present());
}

TEST_CASE("FP4 weights become FP8 weights without loss, spans up to 2^14", "[num][exhaustive]") {
  // A 128 x 128 FP8 tile with S8 = (largest FP4 scale in it) / 2^6 holds value4 * S4 / S8 exactly:
  // the largest is 6 * 2^6 = 384 <= 448, the smallest 0.5 * 2^(6 - 14) = 2^-9, the step of e4m3.
  for (int span = 0; span <= 14; ++span)
    for (unsigned code = 0; code < 16; ++code) {
      const double value4 = e2m1::from_bits(code).decode(), s4 = std::ldexp(1.0, -span),
                   s8 = std::ldexp(1.0, -6);
      const e4m3 value8 = e4m3::encode(value4 * (s4 / s8));
      CHECK(value8.decode() * s8 == value4 * s4);
      CHECK(std::signbit(value8.decode()) == std::signbit(value4));
    }
  // One more is one too many: half the step is lost.
  CHECK(e4m3::encode(0.5 * 0x1p-9).decode() != 0.5 * 0x1p-9);
  CHECK(e4m3::encode(1.5 * 0x1p-9).decode() != 1.5 * 0x1p-9);

  // The same as matrices: 2 x 256 in FP4 with scales of every span, then in FP8, element by element.
  const index_t cols = 256;
  owned_matrix fp4(dtype::f4_e2m1, 2, cols, 1, fp4_tile_cols, dtype::f8_e8m0);
  fp4.fill(3);
  for (index_t i = 0; i < fp4.scales(); ++i)
    fp4.scale[static_cast<std::size_t>(1 + i)] = byte(unsigned(120 - i % 15));
  owned_matrix fp8(dtype::f8_e4m3, 2, cols, fp8_tile, fp8_tile, dtype::f8_e8m0);
  for (index_t tile = 0; tile < 2; ++tile) {
    double largest = 0;
    for (index_t o = 0; o < 2; ++o)
      for (index_t i = tile * 128; i < tile * 128 + 128; ++i)
        largest = std::max(largest, fp4.w.scale_at(o, i));
    const double s8 = std::ldexp(largest, -6);
    fp8.scale[static_cast<std::size_t>(1 + tile)] = byte(e8m0::encode_up(s8).bits);
    for (index_t o = 0; o < 2; ++o)
      for (index_t i = tile * 128; i < tile * 128 + 128; ++i)
        fp8.data[static_cast<std::size_t>(1 + o * cols + i)] = byte(e4m3::encode(fp4.w.at(o, i) / s8).bits);
  }
  unsigned wrong = 0;
  for (index_t o = 0; o < 2; ++o)
    for (index_t i = 0; i < cols; ++i) wrong += fp8.w.at(o, i) != fp4.w.at(o, i);
  CHECK(wrong == 0);
}

TEST_CASE("quantised activations take the scale of their 128 columns", "[num]") {
  const index_t cols = 200;
  std::vector<e4m3> code(2 * cols, e4m3::encode(3));
  std::vector<float> scale = {1, 2, 4, 0.5f};
  const quantised_activations x{{code.data(), 2, cols}, {scale.data(), 2, 2}};
  CHECK(x.rows() == 2);
  CHECK(x.cols() == cols);
  CHECK(x.at(0, 127) == 3);
  CHECK(x.at(0, 128) == 6);
  CHECK(x.at(1, 0) == 12);
  CHECK(x.at(1, 199) == 1.5);
}

}  // namespace dsv4
