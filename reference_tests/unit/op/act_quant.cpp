// SPDX-License-Identifier: MIT
// Activation quantisers.  Numbers in brackets are the post-conditions of op/act_quant.hpp.
#include "dsv4/op/act_quant.hpp"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "catch.hpp"

namespace dsv4 {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

template <class A>
struct quantised {
  std::vector<e4m3> code;
  std::vector<float> scale;
};
template <class A>
quantised<A> quantise(std::vector<A> x, index_t rows) {
  exec::ref e;
  const index_t cols = index_t(x.size()) / rows, blocks = (cols + 127) / 128;
  quantised<A> q{std::vector<e4m3>(x.size()), std::vector<float>(static_cast<std::size_t>(rows * blocks))};
  act_quant(e, view<A, 2>(x.data(), rows, cols), view<e4m3, 2>(q.code.data(), rows, cols),
            view<float, 2>(q.scale.data(), rows, blocks));
  return q;
}
template <class A>
std::vector<A> in_place(std::vector<A> x, index_t channels, index_t block) {
  exec::ref e;
  act_quant_in_place(e, view<A, 2>(x.data(), 1, index_t(x.size())), channels, block);
  return x;
}
template <class A>
std::vector<A> fp4(std::vector<A> x) {
  exec::ref e;
  fp4_act_quant(e, view<A, 2>(x.data(), 1, index_t(x.size())));
  return x;
}
bool is_power_of_two(double s) {
  int e;
  return std::frexp(s, &e) == 0.5;
}

}  // namespace

TEST_CASE("power_of_two_at_least is exact at and around powers of two", "[op]") {
  for (int e = -1000; e <= 1000; ++e) {
    const double p = std::ldexp(1.0, e);
    CHECK(power_of_two_at_least(p) == p);
    CHECK(power_of_two_at_least(std::nextafter(p, inf)) == 2 * p);
    CHECK(power_of_two_at_least(std::nextafter(p, 0)) == p);
    CHECK(power_of_two_at_least(1.5 * p) == 2 * p);
  }
}

TEST_CASE("act_quant: scale at exact powers of two and just beyond", "[op]") {
  // (1) (2): amax 448 * 2^e has scale 2^e, the next larger float twice that.
  for (int e = -20; e <= 20; ++e) {
    const float amax = std::ldexp(448.0f, e);
    const auto q = quantise<float>({1e-9f, -amax, 0}, 1);
    CHECK(q.scale[0] == std::ldexp(1.0f, e));
    CHECK(q.code[1].bits == 0xFE);
    const auto above = quantise<float>({1e-9f, std::nextafterf(amax, 1e38f), 0}, 1);
    CHECK(above.scale[0] == std::ldexp(2.0f, e));
    CHECK(above.code[1].decode() == 224);
    const auto below = quantise<float>({std::nextafterf(amax, 0)}, 1);
    CHECK(below.scale[0] == std::ldexp(1.0f, e));
    CHECK(below.code[0].decode() == 448);
  }
}

TEST_CASE("act_quant: zeros and tiny values use the floor", "[op]") {
  // (3) 1e-4 / 448 = 2^-22.09…, so the floor's scale is 2^-22.
  for (const float tiny : {0.0f, -0.0f, 1e-30f, -1e-45f, 1e-4f}) {
    const auto q = quantise<float>({tiny, 0, -0.0f}, 1);
    CHECK(q.scale[0] == 0x1p-22f);
    CHECK(q.code[0] == e4m3::encode(double(tiny) * 0x1p22));
    CHECK(q.code[1].bits == 0x00);
    CHECK(q.code[2].bits == 0x80);  // the sign of zero is kept
  }
  // Just above the scale's range of the floor it grows.
  CHECK(quantise<float>({0x1.Cp-14f}, 1).scale[0] == 0x1p-22f);  // 448 * 2^-22
  CHECK(quantise<float>({std::nextafterf(0x1.Cp-14f, 1)}, 1).scale[0] == 0x1p-21f);
  // In place a zero stays the zero it was, and values far below the step become zeros of their sign.
  const auto x = in_place<bf16>(
      {bf16::encode(0.0), bf16::encode(-0.0), bf16::encode(1e-30), bf16::encode(-1e-30)}, 4, 64);
  CHECK(x[0].bits == 0x0000);
  CHECK(x[1].bits == 0x8000);
  CHECK(x[2].bits == 0x0000);
  CHECK(x[3].bits == 0x8000);
}

TEST_CASE("act_quant: ties go to the even mantissa", "[op]") {
  // 448 in the block makes the scale 1: the values are e4m3 midpoints themselves.
  const auto q = quantise<double>({448, 1.0625, 1.1875, 17, 19, -1.0625, -19, 0x1p-10, 0x3p-10, 432}, 1);
  REQUIRE(q.scale[0] == 1);
  const double expected[] = {448, 1,   1.25, 16,     20,
                             -1,  -20, 0,    0x1p-8, 448};  // 432 = (416 + 448) / 2, 448 is even
  for (std::size_t i = 0; i < q.code.size(); ++i) CHECK(q.code[i].decode() == expected[i]);
}

TEST_CASE("act_quant: blocks of 128 per row, a partial last one", "[op]") {
  const index_t rows = 3, cols = 300;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<bf16> x;
  for (index_t i = 0; i < rows * cols; ++i)
    x.push_back(bf16::encode(std::ldexp(normal(random), int(i / 100))));
  const auto q = quantise(x, rows);
  for (index_t t = 0; t < rows; ++t)
    for (index_t b = 0; b < 3; ++b) {
      const double s = q.scale[std::size_t(t * 3 + b)];
      CHECK(is_power_of_two(s));  // (2)
      double amax = 0;
      unsigned wrong = 0;
      for (index_t k = b * 128; k < std::min(cols, b * 128 + 128); ++k) {
        const double v = x[std::size_t(t * cols + k)].decode();
        amax = std::max(amax, std::fabs(v));
        wrong += std::fabs(v / s) > 448;  // (1)
        wrong += q.code[std::size_t(t * cols + k)] != e4m3::encode(v / s);
      }
      CHECK(wrong == 0);
      CHECK(amax / (s / 2) > 448);  // no smaller scale would do
    }
}

TEST_CASE("act_quant_in_place: blocks of 64, the channels behind untouched, twice is once", "[op]") {
  std::mt19937 random(9);
  std::normal_distribution<double> normal;
  std::vector<bf16> x;
  for (int i = 0; i < 192; ++i) x.push_back(bf16::encode(normal(random) * (i < 64 ? 1e-3 : 10)));
  const auto y = in_place(x, 128, 64);
  for (std::size_t i = 128; i < 192; ++i) CHECK(y[i] == x[i]);
  for (int b = 0; b < 2; ++b) {
    const double s = block_scale(x.data() + 64 * b, 64, e4m3_max, fp8_amax_floor);
    for (int k = 64 * b; k < 64 * b + 64; ++k)
      CHECK(y[std::size_t(k)] == bf16::encode(e4m3::encode(x[std::size_t(k)].decode() / s).decode() * s));
  }
  CHECK(in_place(y, 128, 64) == y);
}

TEST_CASE("fp4_act_quant: grid, ties, floor", "[op]") {
  // 6 in the block makes the scale 1.
  const auto y = fp4<float>({6, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, -0.25f, -5, 0.3f, -0.0f});
  const float expected[] = {6, 0, 1, 1, 2, 2, 4, 4, -0.0f, -4, 0.5f, -0.0f};
  for (std::size_t i = 0; i < y.size(); ++i) {
    CHECK(y[i] == expected[i]);
    CHECK(std::signbit(y[i]) == std::signbit(expected[i]));
  }
  for (int e = -100; e <= 100; ++e) {
    const double p = std::ldexp(6.0, e);
    CHECK(fp4<double>({p, p / 6})[1] == p / 6);
    // a hair above the largest: the scale doubles and 1/6 of it is still on the grid, as 0.5
    CHECK(fp4<double>({std::nextafter(p, inf), p / 6})[1] == p / 6);
    CHECK(fp4<double>({std::nextafter(p, inf), p / 12})[1] ==
          0);  // 0.25 of the doubled scale: the tie, to even
  }
  // The floor 6 * 2^-126: zeros keep scale 2^-126 (no 0 / 0), and values below half its step vanish.
  const auto z = fp4<bf16>(std::vector<bf16>(40));
  for (const bf16 v : z) CHECK(v.bits == 0);
  CHECK(fp4<double>({0x1p-126, 0x1p-128, -0x1p-129, 0x1.8p-127})[0] == 0x1p-126);
  CHECK(fp4<double>({0x1p-126, 0x1p-128, -0x1p-129, 0x1.8p-127})[1] == 0);
  CHECK(std::signbit(fp4<double>({0x1p-126, 0x1p-128, -0x1p-129, 0x1.8p-127})[2]));
  CHECK(fp4<double>({0x1p-126, 0x1p-128, -0x1p-129, 0x1.8p-127})[3] ==
        0x1p-126);  // 0.75 of a step: the tie, to even
}

TEST_CASE("fp4_act_quant: blocks of 32 do not see one another, twice is once", "[op]") {
  std::mt19937 random(21);
  std::normal_distribution<double> normal;
  std::vector<bf16> x;
  for (int i = 0; i < 80; ++i)
    x.push_back(bf16::encode(normal(random) * std::ldexp(1.0, 8 * (i / 32))));  // 32 + 32 + 16
  const auto y = fp4(x);
  for (int from = 0; from < 80; from += 32) {
    const std::vector<bf16> part(x.begin() + from, x.begin() + std::min(80, from + 32));
    const auto alone = fp4(part);
    CHECK(std::equal(alone.begin(), alone.end(), y.begin() + from));
  }
  CHECK(fp4(y) == y);
}

TEST_CASE("act_quant: shapes are checked at the front", "[op]") {
  exec::ref e;
  std::vector<float> x(256), scale(4);
  std::vector<e4m3> code(256);
  const view<float, 2> in(x.data(), 2, 128);
  CHECK_THROWS_AS(act_quant(e, in, view<e4m3, 2>(code.data(), 1, 128), view<float, 2>(scale.data(), 2, 1)),
                  contract_violation);
  CHECK_THROWS_AS(act_quant(e, in, view<e4m3, 2>(code.data(), 2, 128), view<float, 2>(scale.data(), 2, 2)),
                  contract_violation);
  CHECK_THROWS_AS(act_quant_in_place(e, in, 129, 64), contract_violation);
}

}  // namespace dsv4
