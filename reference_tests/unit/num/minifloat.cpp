// SPDX-License-Identifier: MIT
// Every code of every format, against tables and formulas written down here a second time.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "catch.hpp"
#include "dsv4/num/minifloat.hpp"

namespace dsv4 {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// What a code means, from the definition of the format alone: (-1)^s 2^(e - bias) (1 + m / 2^M),
// without the hidden one and with e = 1 when e is 0.  Powers by repeated multiplication: exact.
double two_to_the(int e) {
  double p = 1;
  for (; e > 0; --e) p *= 2;
  for (; e < 0; ++e) p /= 2;
  return p;
}
double definition(unsigned code, int exponent_bits, int mantissa_bits, int bias, bool infinities,
                  bool one_nan) {
  const unsigned mantissas = 1u << mantissa_bits, exponents = 1u << exponent_bits;
  const unsigned m = code % mantissas, e = code / mantissas % exponents;
  const double sign = code / mantissas / exponents ? -1 : 1;
  if (infinities && e == exponents - 1) return m == 0 ? sign * inf : not_a_number;
  if (one_nan && e == exponents - 1 && m == mantissas - 1) return not_a_number;
  if (e == 0) return sign * two_to_the(1 - bias) * m / mantissas;
  return sign * two_to_the(static_cast<int>(e) - bias) * (1 + double(m) / mantissas);
}

bool same_number(double a, double b) {
  return (a != a && b != b) || (a == b && std::signbit(a) == std::signbit(b));
}

template <class F>
void check_every_code(int exponent_bits, int mantissa_bits, int bias, bool infinities, bool one_nan) {
  const unsigned codes = 1u << (1 + exponent_bits + mantissa_bits);
  unsigned decode_wrong = 0, encode_wrong = 0, kind_wrong = 0;
  for (unsigned c = 0; c < codes; ++c) {
    const F f = F::from_bits(c);
    const double v = definition(c, exponent_bits, mantissa_bits, bias, infinities, one_nan);
    decode_wrong += !same_number(f.decode(), v);
    decode_wrong += !same_number(double(float(f)), v);  // every value of these formats is a float
    kind_wrong += f.is_nan() != (v != v) || f.is_finite() != std::isfinite(v);
    // encode is the inverse, sign of zero included; NaN stays NaN of the same sign.
    if (v == v)
      encode_wrong += F::encode(v) != f;
    else
      encode_wrong += !F::encode(f.decode()).is_nan() || !F::encode(-not_a_number).is_nan() ||
                      !F::encode(not_a_number).is_nan();
  }
  CHECK(decode_wrong == 0);
  CHECK(kind_wrong == 0);
  CHECK(encode_wrong == 0);
}

// Round to nearest, ties to even, at every boundary: between neighbours a < b of codes c, c + 1 the
// midpoint goes to the even code, and the doubles next to the midpoint to the nearer one.  A conversion
// through float would send those two to the even code as well.
template <class F>
void check_every_midpoint() {
  unsigned wrong = 0;
  for (unsigned c = 0; c < F::max_code; ++c) {
    const double a = F::from_bits(c).decode(), b = F::from_bits(c + 1).decode(), mid = (a + b) / 2;
    const unsigned even = c % 2 ? c + 1 : c;
    for (const double sign : {1.0, -1.0}) {
      const unsigned s = sign < 0 ? F::sign_bit : 0;
      wrong += F::encode(sign * mid).bits != (s | even);
      wrong += F::encode(sign * std::nextafter(mid, 0)).bits != (s | c);
      wrong += F::encode(sign * std::nextafter(mid, inf)).bits != (s | (c + 1));
      wrong += F::encode(sign * std::nextafter(b, 0)).bits != (s | (c + 1));
      wrong += F::encode(sign * std::nextafter(a, inf)).bits != (s | c);
    }
  }
  CHECK(wrong == 0);
}

// The nearest code by search over the values, no bits involved.
template <class F>
struct nearest_by_search {
  std::vector<double> values;  // of codes 0 .. max_code, increasing
  nearest_by_search() {
    for (unsigned c = 0; c <= F::max_code; ++c) values.push_back(F::from_bits(c).decode());
  }
  unsigned operator()(double magnitude) const {
    const auto at = std::lower_bound(values.begin(), values.end(), magnitude);
    if (at == values.begin()) return 0;
    if (at == values.end()) return F::max_code;
    const auto above = static_cast<unsigned>(at - values.begin());
    // Both differences are exact: the values have few bits and lie within a factor of two, or below the step.
    const long double down = static_cast<long double>(magnitude) - values[above - 1],
                      up = static_cast<long double>(values[above]) - magnitude;
    if (down != up) return down < up ? above - 1 : above;
    return above % 2 ? above - 1 : above;
  }
};

template <class F>
void check_random(int low_exponent, int high_exponent) {
  const nearest_by_search<F> nearest;
  std::mt19937_64 random(20260424);
  std::uniform_real_distribution<double> mantissa(1, 2);
  std::uniform_int_distribution<int> exponent(low_exponent, high_exponent);
  unsigned wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    const double x = std::ldexp(mantissa(random), exponent(random));
    if (x > F::from_bits(F::max_code).decode()) continue;
    wrong += F::encode(x).bits != nearest(x);
    wrong += F::encode(-x).bits != (F::sign_bit | nearest(x));
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("every code decodes to its definition and encodes back", "[num][exhaustive]") {
  SECTION("bf16") { check_every_code<bf16>(8, 7, 127, true, false); }
  SECTION("f16") { check_every_code<f16>(5, 10, 15, true, false); }
  SECTION("e4m3") { check_every_code<e4m3>(4, 3, 7, false, true); }
  SECTION("e2m1") { check_every_code<e2m1>(2, 1, 1, false, false); }
}

TEST_CASE("tables and landmarks of the formats", "[num]") {
  // e2m1, all sixteen (OCP MX 1.0, table of FP4)
  constexpr std::array<double, 8> fp4 = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (unsigned c = 0; c < 8; ++c) {
    CHECK(e2m1::from_bits(c).decode() == fp4[c]);
    CHECK(same_number(e2m1::from_bits(c + 8).decode(), -fp4[c]));
  }
  // e4m3: largest, smallest normal, step, NaN
  CHECK(e4m3::from_bits(0x7E).decode() == 448);
  CHECK(e4m3::from_bits(0x08).decode() == 0x1p-6);
  CHECK(e4m3::from_bits(0x01).decode() == 0x1p-9);
  CHECK(e4m3::from_bits(0x38).decode() == 1);
  CHECK(e4m3::from_bits(0x7F).is_nan());
  CHECK(e4m3::from_bits(0xFF).is_nan());
  CHECK(e4m3::max_code == 0x7E);
  // bf16 and f16
  CHECK(bf16::from_bits(0x3F80).decode() == 1);
  CHECK(bf16::from_bits(0x0001).decode() == 0x1p-133);
  CHECK(bf16::from_bits(0x7F7F).decode() == 0x1.FEp127);
  CHECK(bf16::from_bits(0xFF80).decode() == -inf);
  CHECK(f16::from_bits(0x7BFF).decode() == 65504);
  CHECK(f16::from_bits(0x0001).decode() == 0x1p-24);
}

TEST_CASE("encode rounds to the nearest code in one step, ties to even", "[num][exhaustive]") {
  SECTION("bf16") { check_every_midpoint<bf16>(); }
  SECTION("f16") { check_every_midpoint<f16>(); }
  SECTION("e4m3") { check_every_midpoint<e4m3>(); }
  SECTION("e2m1") { check_every_midpoint<e2m1>(); }
}

TEST_CASE("encode agrees with a search over all values", "[num]") {
  SECTION("bf16") { check_random<bf16>(-140, 127); }
  SECTION("f16") { check_random<f16>(-30, 15); }
  SECTION("e4m3") { check_random<e4m3>(-14, 8); }
  SECTION("e2m1") { check_random<e2m1>(-6, 2); }
}

TEST_CASE("beyond the largest value", "[num]") {
  // ieee: half a step above the largest rounds to infinity, anything below that to the largest.
  const double bf16_edge = 0x1.FFp127, f16_edge = 65520;
  CHECK(bf16::encode(bf16_edge).bits == 0x7F80);
  CHECK(bf16::encode(std::nextafter(bf16_edge, 0)).bits == 0x7F7F);
  CHECK(bf16::encode(-1e300).bits == 0xFF80);
  CHECK(bf16::encode(-inf).bits == 0xFF80);
  CHECK(f16::encode(f16_edge).bits == 0x7C00);
  CHECK(f16::encode(std::nextafter(f16_edge, 0)).bits == 0x7BFF);
  // the others saturate, infinity included
  for (const double x : {449.0, 464.0, std::nextafter(464.0, inf), 480.0, 512.0, 895.0, 896.0, 1e300, inf}) {
    CHECK(e4m3::encode(x).bits == 0x7E);
    CHECK(e4m3::encode(-x).bits == 0xFE);
  }
  for (const double x : {6.5, 7.0, 8.0, 11.9, 12.0, 1e300, inf}) {
    CHECK(e2m1::encode(x).bits == 0x7);
    CHECK(e2m1::encode(-x).bits == 0xF);
  }
}

TEST_CASE("zero, the smallest and NaN", "[num]") {
  CHECK(bf16::encode(0.0).bits == 0);
  CHECK(bf16::encode(-0.0).bits == 0x8000);
  CHECK(e4m3::encode(-0.0).bits == 0x80);
  CHECK(e2m1::encode(-0.0).bits == 0x8);
  CHECK(e2m1::encode(-0.2).bits == 0x8);  // a negative number that rounds to zero keeps its sign
  // below half the step: zero, sign kept
  CHECK(e4m3::encode(0x1p-10).bits == 0);  // the tie goes to even
  CHECK(e4m3::encode(std::nextafter(0x1p-10, 1)).bits == 1);
  CHECK(e4m3::encode(-std::numeric_limits<double>::denorm_min()).bits == 0x80);
  CHECK(bf16::encode(std::numeric_limits<double>::denorm_min()).bits == 0);
  CHECK(bf16::encode(not_a_number).is_nan());
  CHECK(e4m3::encode(not_a_number).is_nan());
  CHECK(e2m1::encode(not_a_number).bits == 0);  // FP4 has none
}

TEST_CASE("exponents and roundings read off the bits are those of frexp, ldexp and nearbyint", "[num]") {
  const auto by_frexp = [](double x) {
    int e;
    const double m = std::frexp(x, &e);
    return m == 0.5 ? e - 1 : e;
  };
  for (int e = -1074; e <= 1023; ++e) {
    const double power = std::ldexp(1.0, e);
    for (const double x : {power, std::nextafter(power, 0), std::nextafter(power, HUGE_VAL), 1.5 * power})
      if (x > 0) CHECK(dsv4::exponent_at_least(x) == by_frexp(x));
    if (e >= -1022) CHECK(dsv4::power_of_two(e) == power);
  }
  // Without a meaning, but an answer: blocks with such values are quantised, too.
  CHECK(dsv4::exponent_at_least(HUGE_VAL) == 0);
  CHECK(dsv4::exponent_at_least(std::nan("")) == 0);

  std::mt19937_64 random(11);
  for (int i = 0; i < 10000; ++i) {
    const double x = std::ldexp(static_cast<double>(random() >> 11), -52);  // [0, 2)
    CHECK(dsv4::round_to_whole(64 * x) == std::nearbyint(64 * x));
    CHECK(dsv4::magnitude_of(-x) == x);
  }
  for (double half = 0.5; half < 100; ++half) CHECK(dsv4::round_to_whole(half) == std::nearbyint(half));
}

TEST_CASE("e8m0 is an exponent", "[num][exhaustive]") {
  for (unsigned b = 0; b < 255; ++b) {
    const double v = two_to_the(static_cast<int>(b) - 127);
    CHECK(e8m0::from_bits(b).decode() == v);
    CHECK(float(e8m0::from_bits(b)) == float(v));
    CHECK(double(float(e8m0::from_bits(b))) == v);  // also 2^-127, a subnormal float
    CHECK(e8m0::encode_up(v).bits == b);
    // The next larger number needs the next larger scale, the next smaller one this one.
    CHECK(e8m0::encode_up(std::nextafter(v, inf)).bits == (b < 254 ? b + 1 : 254));
    CHECK(e8m0::encode_up(std::nextafter(v, 0)).bits == b);
  }
  CHECK(e8m0::from_bits(0).decode() == 0x1p-127);
  CHECK(e8m0::from_bits(255).is_nan());
  CHECK(e8m0::from_bits(255).decode() != e8m0::from_bits(255).decode());
  CHECK(e8m0{}.decode() == 1);
  CHECK(e8m0::encode_up(0x1p-200).bits == 0);
  CHECK(e8m0::encode_up(0x1p200).bits == 254);
}

}  // namespace dsv4
