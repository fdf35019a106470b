// SPDX-License-Identifier: MIT
// Norms, rotary tables and rotation.  Numbers in brackets are the post-conditions of op/rms_norm.hpp, op/rope.hpp.
#include "catch.hpp"
#include "data.hpp"
#include "dsv4/io/safetensors.hpp"
#include "dsv4/op/rms_norm.hpp"
#include "dsv4/op/rope.hpp"
#include "executors.hpp"
#include "operands.hpp"

namespace dsv4_test {

TEMPLATE_TEST_CASE("rms_norm of hand-computed rows", "[op]", DSV4_TEST_EXECUTORS) {
  TestType e;
  // mean(x^2) = (9 + 16 + 0 + 0) / 4 = 2.5^2
  tensor<float, 2> x(2, 4), y(2, 4);
  tensor<float, 1> w(4);
  x(0, 0) = 3, x(0, 1) = -4;
  w[0] = 1, w[1] = 0.5, w[2] = 7, w[3] = 1;
  rms_norm(e, x.all(), w.all(), 0, y.all());
  CHECK(close(y(0, 0), 1.2, float_sum<TestType>));
  CHECK(close(y(0, 1), -0.8, float_sum<TestType>));
  CHECK(y(0, 2) == 0);
}

TEMPLATE_TEST_CASE("rms_norm: eps, zero rows, in place, one store", "[op]", DSV4_TEST_EXECUTORS) {
  TestType e;
  integers r{1};
  for (const index_t d : {1, 2, 31, 64, 257}) {
    auto x = random_tensor<bf16>(r, 2, index_t{5}, d);
    for (index_t i = 0; i < d; ++i)
      x(3, i) = {}, x(4, i) = store<bf16>(1e-4 * value(x(4, i)));  // where eps counts
    tensor<float, 1> w(d), ones(d);
    for (index_t i = 0; i < d; ++i) w[i] = 1 + r.unit() / 2, ones[i] = 1;
    tensor<bf16, 2> y(5, d);
    rms_norm(e, x.all(), w.all(), 1e-6, y.all());
    for (index_t t = 0; t < 5; ++t) {
      double squares = 0;
      for (index_t i = 0; i < d; ++i) squares += value(x(t, i)) * value(x(t, i));
      const double factor = 1 / std::sqrt(squares / double(d) + 1e-6);
      for (index_t i = 0; i < d; ++i) {
        CHECK(stored_as_near(y(t, i), value(x(t, i)) * factor * double(w[i]), wide_sum<TestType>));
        if (t == 3) CHECK(value(y(t, i)) == 0);  // (2)
      }
    }
    // (1)
    tensor<float, 2> wide(5, d), normed(5, d);
    for (index_t i = 0; i < x.size(); ++i) wide.data()[i] = float(value(x.data()[i]));
    rms_norm(e, wide.all(), ones.all(), 1e-6, normed.all());
    double mean = 0;
    for (index_t i = 0; i < d; ++i) mean += double(normed(0, i)) * double(normed(0, i)) / double(d);
    CHECK(mean == Catch::Approx(1).epsilon(1e-4));
    rms_norm(e, x.all(), w.all(), 1e-6, x.all());
    CHECK(std::equal(x.data(), x.data() + x.size(), y.data()));
  }
  tensor<bf16, 2> x(2, 8), y(2, 8), other(2, 7);
  tensor<float, 1> w(7), right(8);
  CHECK_THROWS_AS(rms_norm(e, x.all(), w.all(), 1e-6, y.all()), contract_violation);
  CHECK_THROWS_AS(rms_norm(e, x.all(), right.all(), 1e-6, other.all()), contract_violation);
}

TEMPLATE_TEST_CASE("head_norm stores every step", "[op]", DSV4_TEST_EXECUTORS) {
  TestType e;
  integers r{2};
  for (const index_t d : {4, 32, 128}) {
    auto q = random_tensor<bf16>(r, 3, index_t{7}, index_t{3}, d);
    for (index_t i = 0; i < d; ++i) q(5, 1, i) = {}, q(6, 2, i) = store<bf16>(value(q(6, 2, i)) / 1024);
    const auto x = q;
    head_norm(e, q.all(), 1e-6);
    for (index_t t = 0; t < 7; ++t)
      for (index_t h = 0; h < 3; ++h) {
        double sum = 0;
        for (index_t i = 0; i < d; ++i) sum += rounded<bf16>(value(x(t, h, i)) * value(x(t, h, i)));
        const double mean = rounded<bf16>(sum / double(d));
        const double factor = rounded<bf16>(1 / std::sqrt(rounded<bf16>(mean + 1e-6)));
        for (index_t i = 0; i < d; ++i) {
          INFO("d " << d << " t " << t << " h " << h << " i " << i);
          // A float mean may round to the neighbouring bf16: then everything after it moves by up to 2^-7.
          if (std::is_same_v<wide_t<TestType>, double>)
            CHECK(q(t, h, i) == store<bf16>(value(x(t, h, i)) * factor));
          else
            CHECK(close(value(q(t, h, i)), value(x(t, h, i)) * factor, 0x1p-6));
        }
      }
  }
  // Without stores it is x / rms.
  tensor<float, 3> q(1, 1, 4);
  q(0, 0, 0) = 3, q(0, 0, 1) = -4;
  head_norm(e, q.all(), 0);
  CHECK(close(q(0, 0, 0), 1.2, float_sum<TestType>));
  CHECK(close(q(0, 0, 1), -1.6, float_sum<TestType>));
}

TEST_CASE("rotary tables equal golden/rope bit for bit", "[op][golden]") {
  const auto path = golden("rope/tables.safetensors");
  REQUIRE(path);
  const auto file = io::safetensors::open(*path);
  const auto floats = [&](const std::string& name) {
    const auto& t = file.at(name);
    REQUIRE(t.type == dtype::f32);
    std::vector<float> v(static_cast<std::size_t>(t.elements));
    std::memcpy(v.data(), t.data, t.bytes);
    return v;
  };
  std::vector<std::int32_t> positions(static_cast<std::size_t>(file.at("positions").elements));
  std::memcpy(positions.data(), file.at("positions").data, file.at("positions").bytes);
  CHECK(positions.back() == 1048575);

  config flash;  // the published numbers are config's defaults
  flash.qk_rope_head_dim = 64;
  for (const bool yarn : {false, true}) {
    const std::string table = yarn ? "yarn_theta160000." : "plain_theta10000.";
    const auto f = rotary_frequencies(flash, yarn ? csa_ratio : 0);
    CHECK(std::vector<float>(f.data(), f.data() + f.size()) == floats(table + "inv_freq"));
    const auto angle = floats(table + "angle"), c = floats(table + "cos"), s = floats(table + "sin");
    const auto n = static_cast<index_t>(positions.size());
    tensor<float, 2> cosines(n, 32), sines(n, 32);
    for (index_t t = 0; t < n; ++t) rotary_angles{cosines, sines}.set(t, positions[std::size_t(t)], f.all());
    CHECK(std::vector<float>(cosines.data(), cosines.data() + n * 32) == c);
    CHECK(std::vector<float>(sines.data(), sines.data() + n * 32) == s);
    bool product = true;
    for (index_t t = 0; t < n; ++t)
      for (index_t i = 0; i < 32; ++i)
        product = product && float(positions[std::size_t(t)]) * f[i] == angle[std::size_t(t * 32 + i)];
    CHECK(product);
  }
  // HCA layers have CSA's table, MTP and window layers the plain one.
  const auto csa = rotary_frequencies(flash, 4), hca = rotary_frequencies(flash, 128);
  CHECK(std::equal(csa.data(), csa.data() + 32, hca.data()));
}

TEST_CASE("YaRN keeps the fast pairs, divides the slow ones, and has no amplitude", "[op]") {
  yarn_config yarn;
  const auto plain = rotary_frequencies(160000, 64, nullptr),
             stretched = rotary_frequencies(160000, 64, &yarn);
  for (index_t i = 0; i <= 15; ++i) CHECK(stretched[i] == plain[i]);  // Flash: ramp between pairs 15 and 25
  for (index_t i = 16; i < 25; ++i) {
    CHECK(stretched[i] < plain[i]);
    CHECK(stretched[i] > plain[i] / 16);
  }
  for (index_t i = 25; i < 32; ++i) CHECK(stretched[i] == plain[i] / 16);
  tensor<float, 2> c(1, 32), s(1, 32);
  for (const index_t position : {0, 1, 1000, 1000000}) {
    rotary_angles{c, s}.set(0, position, stretched.all());
    for (index_t i = 0; i < 32; ++i)
      CHECK(double(c(0, i)) * c(0, i) + double(s(0, i)) * s(0, i) == Catch::Approx(1).epsilon(1e-6));
  }
  // low == high must not divide by zero
  yarn.beta_fast = yarn.beta_slow = 1e9;
  const auto steep = rotary_frequencies(160000, 64, &yarn);
  for (const float f : steep.all()) CHECK(std::isfinite(f));
}

TEMPLATE_TEST_CASE("rope turns interleaved pairs of the last channels", "[op]", DSV4_TEST_EXECUTORS) {
  TestType e;
  // Pair 0 by 90 degrees, pair 1 by 0: (a, b) -> (-b, a).
  tensor<float, 2> c(1, 2), s(1, 2);
  c(0, 0) = 0, s(0, 0) = 1, c(0, 1) = 1, s(0, 1) = 0;
  const rotary_angles angles{c, s};
  tensor<float, 3> x(1, 2, 6);
  for (index_t i = 0; i < 12; ++i) x.data()[i] = float(i + 1);
  rope(e, x.all(), angles);
  const float forward[] = {1, 2, -4, 3, 5, 6, 7, 8, -10, 9, 11, 12};
  CHECK(std::equal(x.data(), x.data() + 12, forward));
  rope(e, x.all(), angles, rotation::inverse);
  rope(e, x.all(), angles, rotation::inverse);
  const float backward[] = {1, 2, 4, -3, 5, 6, 7, 8, 10, -9, 11, 12};
  CHECK(std::equal(x.data(), x.data() + 12, backward));
  tensor<float, 3> narrow(1, 1, 3), more(2, 1, 6);
  CHECK_THROWS_AS(rope(e, narrow.all(), angles), contract_violation);
  CHECK_THROWS_AS(rope(e, more.all(), angles), contract_violation);
}

TEMPLATE_TEST_CASE("rope: inverse, length, distance, one store", "[op]", DSV4_TEST_EXECUTORS) {
  TestType e;
  integers r{3};
  const index_t t = 9, h = 3, d = 40, rd = 16;
  const auto f = rotary_frequencies(10000, rd, nullptr);
  tensor<float, 2> c(t, rd / 2), s(t, rd / 2);
  const rotary_angles angles{c, s};
  const index_t positions[] = {0, 1, 2, 100, 101, 5000, 5007, 70000, 1048575};
  for (index_t i = 0; i < t; ++i) angles.set(i, positions[i], f.all());
  const auto x = random_tensor<float>(r, 1, t, h, d);
  auto y = x;
  rope(e, y.all(), angles);
  double before = 0, after = 0;
  for (index_t i = 0; i < x.size(); ++i)
    before += double(x.data()[i]) * x.data()[i], after += double(y.data()[i]) * y.data()[i];
  CHECK(after == Catch::Approx(before).epsilon(1e-6));                    // (2)
  for (index_t i = 0; i < h * d; ++i) CHECK(y.data()[i] == x.data()[i]);  // position 0
  for (index_t i = 0; i < t; ++i)
    for (index_t k = 0; k < h * d; ++k)
      if (k % d < d - rd) CHECK(y[i].data()[k] == x[i].data()[k]);  // the front channels
  auto back = y;
  rope(e, back.all(), angles, rotation::inverse);
  for (index_t i = 0; i < x.size(); ++i) CHECK(std::fabs(back.data()[i] - x.data()[i]) < 1e-6);  // (1)
  // Every head by its token's angles; bf16 with one store.
  const auto z = random_tensor<bf16>(r, 1, t, h, d);
  auto turned = z;
  rope(e, turned.all(), angles);
  for (index_t i = 0; i < t; ++i)
    for (index_t j = 0; j < h; ++j)
      for (index_t p = 0; p < rd / 2; ++p) {
        const index_t k = d - rd + 2 * p;
        const double a = value(z(i, j, k)), b = value(z(i, j, k + 1)), cp = c(i, p), sp = s(i, p);
        CHECK(stored_as_near(turned(i, j, k), a * cp - b * sp, wide_sum<TestType>, 2));
        CHECK(stored_as_near(turned(i, j, k + 1), a * sp + b * cp, wide_sum<TestType>, 2));
      }
  // q at p+n and k at n: the product depends on p only.
  const auto q = random_tensor<float>(r, 1, index_t{1}, index_t{1}, rd),
             k = random_tensor<float>(r, 1, index_t{1}, index_t{1}, rd);
  const auto product = [&](index_t at, index_t distance) {
    tensor<float, 2> c1(1, rd / 2), s1(1, rd / 2);
    auto a = q, b = k;
    rotary_angles{c1, s1}.set(0, at + distance, f.all());
    rope(e, a.all(), rotary_angles{c1, s1});
    rotary_angles{c1, s1}.set(0, at, f.all());
    rope(e, b.all(), rotary_angles{c1, s1});
    double sum = 0;
    for (index_t i = 0; i < rd; ++i) sum += double(a.data()[i]) * b.data()[i];
    return sum;
  };
  CHECK(std::fabs(product(0, 7) - product(500, 7)) < 1e-4);
  CHECK(std::fabs(product(0, 7) - product(0, 8)) > 1e-3);
}

}  // namespace dsv4_test
