// SPDX-License-Identifier: MIT
// The lossless cast of FP4 to FP8: every code, every scale offset, and what is said when it cannot be.
#include <cstddef>
#include <vector>

#include "catch.hpp"
#include "dsv4/num/fp4_to_fp8.hpp"
#include "quantise_test.hpp"

namespace dsv4_test {
using Catch::Matchers::ContainsSubstring;

namespace {

/// An FP4 matrix whose codes and scales a test sets.
struct fp4_matrix {
  index_t rows, cols;
  std::vector<std::byte> codes, scales;

  fp4_matrix(index_t o, index_t i)
      : rows(o),
        cols(i),
        codes(std::size_t(o * i / 2)),
        scales(std::size_t(o * ((i + 31) / 32)), std::byte{127}) {}
  void set(index_t o, index_t i, unsigned code) {
    std::byte& pair = codes[std::size_t((o * cols + i) / 2)];
    pair = i % 2 ? (pair & std::byte{15}) | std::byte(code << 4) : (pair & std::byte{0xF0}) | std::byte(code);
  }
  void set_scale(index_t o, index_t i, unsigned bits) {
    scales[std::size_t(o * ((cols + 31) / 32) + i / 32)] = std::byte(bits);
  }
  weight_matrix matrix() const {
    weight_matrix w;
    w.type = dtype::f4_e2m1, w.data = codes.data(), w.rows = rows, w.cols = cols;
    w.scale = scales.data(), w.tile_rows = 1, w.tile_cols = 32;
    return w;
  }
};

struct fp8_result {
  tensor<e4m3, 2> code;
  tensor<e8m0, 2> scale;
  double at(index_t o, index_t i) const { return code(o, i).decode() * scale(o / 128, i / 128).decode(); }
};
fp8_result cast(const fp4_matrix& m, cast_limit limit, std::string_view name = "experts.3.w1") {
  fp8_result r{tensor<e4m3, 2>(m.rows, m.cols), tensor<e8m0, 2>((m.rows + 127) / 128, (m.cols + 127) / 128)};
  fp4_to_fp8(m.matrix(), r.code.all(), r.scale.all(), limit, name);
  return r;
}
bool same(const fp4_matrix& m, const fp8_result& r) {
  const weight_matrix w = m.matrix();
  for (index_t o = 0; o < m.rows; ++o)
    for (index_t i = 0; i < m.cols; ++i)
      if (w.at(o, i) != r.at(o, i) || std::signbit(w.at(o, i)) != std::signbit(r.at(o, i))) return false;
  return true;
}

}  // namespace

TEST_CASE("every e2m1 code under every scale offset: lossless up to 2^14, and no further",
          "[train_quantise]") {
  for (int top = 0; top <= 254; ++top)
    for (int offset = 0; offset <= 20 && offset <= top; ++offset) {
      // One tile at the top scale, one `offset` below it with all 16 codes.
      fp4_matrix m(2, 32);
      m.set_scale(0, 0, unsigned(top));
      m.set(0, 0, 7);
      m.set_scale(1, 0, unsigned(top - offset));
      for (unsigned c = 0; c < 16; ++c) m.set(1, index_t(c), c);
      INFO("scale 2^" << top - 127 << ", offset " << offset);
      for (const cast_limit limit : {cast_limit::released, cast_limit::exact}) {
        if (offset <= static_cast<int>(limit))
          CHECK(same(m, cast(m, limit)));
        else
          CHECK_THROWS_AS(cast(m, limit), unsupported);
      }
      if (offset > 14) {  // not a bound that could be wider: the smallest code is lost
        const int e = std::max(top - 127 - 6, -127);
        const double smallest = 0.5 * std::ldexp(1.0, top - offset - 127 - e);
        if (top - 127 - 6 >= -127) CHECK(e4m3::encode(smallest).decode() != smallest);
      }
      // Codes of the released limit are normal numbers.
      if (offset <= 11) {
        const fp8_result r = cast(m, cast_limit::released);
        bool normal = true;
        for (index_t i = 0; i < 16; ++i)
          normal = normal && (r.at(1, i) == 0 || std::fabs(r.code(1, i).decode()) >= 0x1p-6);
        CHECK(normal);
      }
    }
}

TEST_CASE("a tile that cannot be cast is named with its scales", "[train_quantise]") {
  fp4_matrix m(300, 288);  // tiles 3 x 3, the last ones partial
  for (index_t o = 0; o < m.rows; ++o)
    for (index_t i = 0; i < m.cols; ++i) m.set(o, i, unsigned((o + i) % 16));
  m.set_scale(130, 256, 127 + 3);
  CHECK(same(m, cast(m, cast_limit::released)));
  m.set_scale(260, 256, 127 - 12);  // another tile: no conflict with row 130, but with its own
  CHECK_THROWS_AS(cast(m, cast_limit::released), unsupported);
  CHECK(same(m, cast(m, cast_limit::exact)));
  m.set_scale(270, 256, 127 + 3);
  const std::string message = message_of([&] { cast(m, cast_limit::exact); });
  for (const char* part : {"experts.3.w1", "FP8 tile (2, 2)", "2^-12 at row 260, column 256",
                           "2^3 at row 270, column 256", "a ratio of 2^15", "at most 2^14"})
    CHECK_THAT(message, ContainsSubstring(part));

  const auto widest = widest_spread(m.matrix());
  REQUIRE(widest);
  CHECK((widest->tile_row == 2 && widest->tile_col == 2 && widest->ratio() == 15));
}

TEST_CASE("zeros never stand in the way", "[train_quantise]") {
  fp4_matrix m(130, 64);
  CHECK(!widest_spread(m.matrix()));
  CHECK(same(m, cast(m, cast_limit::released)));
  m.set(3, 40, 5);
  m.set(3, 41, 8);         // -0
  m.set_scale(7, 0, 1);    // zeros with the quantiser's floor
  m.set_scale(8, 0, 255);  // zeros with a NaN scale: value at() is NaN, the cast's is 0
  const fp8_result r = cast(m, cast_limit::released);
  CHECK(r.at(3, 40) == 3);
  CHECK(r.at(8, 0) == 0);
  CHECK(widest_spread(m.matrix())->ratio() == 0);
  m.set(8, 1, 1);
  CHECK_THAT(message_of([&] { cast(m, cast_limit::exact); }), ContainsSubstring("row 8, column 0 is NaN"));
  // What is not FP4 is refused.
  weight_matrix f = m.matrix();
  f.type = dtype::f8_e4m3;
  CHECK_THROWS_AS(widest_spread(f), contract_violation);
}

}  // namespace dsv4_test
