// SPDX-License-Identifier: MIT
// Every way to a bf16 gives the same bits: round_bf16(float), round_bf16(double), minifloat::encode.
#include "dsv4/num/round.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "catch.hpp"

namespace dsv4::num_round {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr float inf_f = std::numeric_limits<float>::infinity();

bool double_paths_agree(double x) { return round_bf16(x) == bf16::encode(x); }
bool float_paths_agree(float x) {
  const bf16 expected = bf16::encode(x);
  return round_bf16(x) == expected && round_bf16(double(x)) == expected;
}

}  // namespace

TEST_CASE("round_bf16 at every bf16, every midpoint and their neighbours", "[num][exhaustive]") {
  unsigned wrong = 0;
  for (unsigned c = 0; c <= 0xFFFF; ++c) {
    const bf16 b = bf16::from_bits(c);
    if (!b.is_finite()) continue;
    const double v = b.decode();
    wrong +=
        round_bf16(v) != b || round_bf16(float(v)) != b || bf16::encode(v) != b || to_float(b) != float(v);
    // The midpoint to the next code of larger magnitude; above the largest, where infinity begins.
    const double next = (c & 0x7FFF) == 0x7F7F ? std::copysign(0x1p128, v) : bf16::from_bits(c + 1).decode();
    const double mid = (v + next) / 2;
    const unsigned even = c % 2 ? c + 1 : c;
    wrong += round_bf16(mid).bits != even || round_bf16(float(mid)).bits != even;
    // One ulp of double beside a boundary: the step through float alone would round these to even.
    wrong += round_bf16(std::nextafter(mid, 0.0)).bits != c;
    wrong += round_bf16(std::nextafter(mid, std::copysign(inf, v))).bits != c + 1;
    wrong += round_bf16(std::nextafterf(float(mid), 0.0f)).bits != c;
    wrong += round_bf16(std::nextafterf(float(mid), std::copysign(inf_f, float(v)))).bits != c + 1;
    for (const double x : {v, mid})
      for (const double y : {x, std::nextafter(x, inf), std::nextafter(x, -inf)}) {
        wrong += !double_paths_agree(y);
        wrong += !float_paths_agree(float(y));
      }
    // … and one ulp of float beside it.
    for (const float x : {float(v), float(mid)})
      wrong += !float_paths_agree(std::nextafterf(x, inf_f)) + !float_paths_agree(std::nextafterf(x, -inf_f));
  }
  CHECK(wrong == 0);
}

TEST_CASE("round_bf16 of a double rounds once", "[num]") {
  // 1 + 2^-8 is the midpoint of 1 and 1 + 2^-7.  A hair more must go up, though its float is the midpoint.
  for (int bits = 25; bits <= 52; ++bits) {
    const double above = 1 + 0x1p-8 + std::ldexp(1.0, -bits), below = 1 + 0x1p-8 - std::ldexp(1.0, -bits);
    CHECK(round_bf16(above).bits == 0x3F81);
    CHECK(round_bf16(below).bits == 0x3F80);
    // from the odd side: 1 + 3 * 2^-8 lies between 0x3F81 and 0x3F82
    CHECK(round_bf16(above + 0x1p-7).bits == 0x3F82);
    CHECK(round_bf16(below + 0x1p-7).bits == 0x3F81);
    CHECK(round_bf16(-above).bits == 0xBF81);
  }
  CHECK(static_cast<float>(1 + 0x1p-8 + 0x1p-40) == 1 + 0x1p-8f);              // the trap is real
  CHECK(round_bf16(static_cast<float>(1 + 0x1p-8 + 0x1p-40)).bits == 0x3F80);  // and this is falling into it
}

TEST_CASE("round_bf16 outside the range of float", "[num]") {
  CHECK(round_bf16(1e300).bits == 0x7F80);
  CHECK(round_bf16(-1e300).bits == 0xFF80);
  CHECK(round_bf16(inf).bits == 0x7F80);
  CHECK(round_bf16(-inf_f).bits == 0xFF80);
  CHECK(round_bf16(1e-300).bits == 0);
  CHECK(round_bf16(-1e-300).bits == 0x8000);
  CHECK(round_bf16(0x1p-134).bits == 0);  // tie between 0 and the smallest
  CHECK(round_bf16(std::nextafter(0x1p-134, 1.0)).bits == 1);
  CHECK(round_bf16(double(std::numeric_limits<float>::max())).bits == 0x7F80);
  CHECK(round_bf16(0.0).bits == 0);
  CHECK(round_bf16(-0.0).bits == 0x8000);
  CHECK(round_bf16(-0.0f).bits == 0x8000);
}

TEST_CASE("NaN stays NaN on every path", "[num]") {
  // The payload of the first survives in the low half only: truncation would make an infinity of it.
  for (const std::uint32_t u : {0x7F800001u, 0x7FC00000u, 0xFF800001u, 0xFFFFFFFFu, 0x7F80FFFFu}) {
    CHECK(round_bf16(std::bit_cast<float>(u)).is_nan());
    CHECK(round_bf16(double(std::bit_cast<float>(u))).is_nan());
  }
  CHECK(round_bf16(std::bit_cast<double>(0x7FF0000000000001ull)).is_nan());
  CHECK(round_bf16(std::bit_cast<double>(0xFFFFFFFFFFFFFFFFull)).is_nan());
}

TEST_CASE("random doubles and floats: all paths agree", "[num]") {
  std::mt19937_64 random(128);
  unsigned wrong = 0;
  for (int i = 0; i < 300000; ++i) {
    const double x = std::bit_cast<double>(random());
    if (x == x) wrong += !double_paths_agree(x);
    // near the range of float, where all the bits are
    const double y = std::ldexp(1 + std::ldexp(double(random() >> 12), -52), int(random() % 300) - 160);
    wrong += !double_paths_agree(y) + !double_paths_agree(-y);
    const float z = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (z == z) wrong += !float_paths_agree(z);
  }
  CHECK(wrong == 0);
}

TEST_CASE("store, widen, rounded", "[num]") {
  CHECK(store<bf16>(1 + 0x1p-8 + 0x1p-40).bits == 0x3F81);
  CHECK(store<bf16>(1 + 0x1p-8f).bits == 0x3F80);
  CHECK(store<float>(0.1) == 0.1f);
  CHECK(store<double>(0.1) == 0.1);
  CHECK(widen<double>(bf16::from_bits(0x4049)) == 3.140625);
  CHECK(widen<float>(bf16::from_bits(0xC049)) == -3.140625f);
  CHECK(widen<double>(0.1f) == double(0.1f));
  CHECK(rounded<bf16>(3.14159) == 3.140625);
  CHECK(rounded<float>(0.1) == double(0.1f));
}

}  // namespace dsv4::num_round
