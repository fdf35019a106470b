// SPDX-License-Identifier: MIT
// Hadamard, SwiGLU, top-k, embedding, and products with every weight format.
// Numbers in brackets are the post-conditions of op/hadamard.hpp.
#include <bit>

#include "catch.hpp"
#include "dsv4/op/embedding.hpp"
#include "dsv4/op/hadamard.hpp"
#include "dsv4/op/linear.hpp"
#include "dsv4/op/swiglu.hpp"
#include "dsv4/op/top_k.hpp"
#include "executors.hpp"
#include "operands.hpp"

namespace dsv4_test {

TEMPLATE_TEST_CASE("hadamard: Sylvester order, orthogonal, its own inverse", "[op]", DSV4_TEST_EXECUTORS) {
  TestType e;
  // d = 4: exact.
  tensor<float, 2> x(1, 4);
  for (index_t i = 0; i < 4; ++i) x(0, i) = float(1 << i);  // 1 2 4 8
  hadamard(e, x.all());
  const float expected[] = {7.5, -2.5, -4.5, 1.5};  // (15, -5, -9, 3) / 2
  CHECK(std::equal(x.data(), x.data() + 4, expected));

  integers r{1};
  for (const index_t d : {1, 2, 16, 32, 64, 128}) {
    const auto a = random_tensor<float>(r, 1, index_t{3}, d);
    auto b = a;
    hadamard(e, b.all());
    double before = 0, after = 0;
    for (index_t i = 0; i < d; ++i) {
      double sum = 0;
      for (index_t j = 0; j < d; ++j)
        sum += (std::popcount(static_cast<unsigned>(i & j)) % 2 ? -1.0 : 1.0) * double(a(2, j));
      CHECK(close(b(2, i), sum / std::sqrt(double(d)), float_sum<TestType>, 4));
      before += double(a(0, i)) * a(1, i);
      after += double(b(0, i)) * b(1, i);
    }
    CHECK(std::fabs(after - before) < 1e-5 * double(d));  // (2)
    hadamard(e, b.all());
    for (index_t i = 0; i < a.size(); ++i) CHECK(std::fabs(b.data()[i] - a.data()[i]) < 1e-6);  // (1)
  }
  // One bf16 store at the end only: 1 + 2^-8 survives where a store per stage would lose it.
  tensor<bf16, 2> y(1, 4);
  y(0, 0) = store<bf16>(1.0), y(0, 1) = store<bf16>(0x1p-8), y(0, 2) = store<bf16>(-1.0),
       y(0, 3) = store<bf16>(0x1p-8);
  hadamard(e, y.all());
  CHECK(value(y(0, 0)) == 0x1p-8);
  CHECK(value(y(0, 1)) == -0x1p-8);
  CHECK(value(y(0, 2)) == 1);
  tensor<float, 2> three(1, 3);
  CHECK_THROWS_AS(hadamard(e, three.all()), contract_violation);
}

TEMPLATE_TEST_CASE("swiglu: gate clamped above only, linear on both sides, weight inside", "[op]",
                   DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  const auto silu = [](double a) { return a / (1 + std::exp(-a)); };
  const float gates[] = {0, 1, 2, 3, 100, -1, -3, -100, 2.5}, ups[] = {1, -1, 2, -2, 5, -5, 100, -100, 0};
  const index_t n = 9;
  tensor<float, 2> a(1, n), u(1, n), z(1, n);
  tensor<W, 1> weight(1);
  weight[0] = W(0.375);
  const double limit = 2;
  for (index_t shift = 0; shift < n; ++shift) {
    for (index_t i = 0; i < n; ++i) a(0, i) = gates[i], u(0, i) = ups[(i + shift) % n];
    for (const bool weighted : {false, true}) {
      swiglu(e, a.all(), u.all(), weighted ? view<const W, 1>(weight.all()) : view<const W, 1>(), limit,
             z.all());
      for (index_t i = 0; i < n; ++i) {
        const double expected = silu(std::min(double(a(0, i)), limit)) *
                                std::clamp(double(u(0, i)), -limit, limit) * (weighted ? 0.375 : 1);
        CHECK(close(z(0, i), expected, float_sum<TestType>, 1e-30));
      }
    }
  }
  // Asymmetric: -3 is not clamped to -2.
  a(0, 0) = -3, u(0, 0) = 1;
  swiglu(e, a.all(), u.all(), {}, limit, z.all());
  CHECK(close(z(0, 0), silu(-3), float_sum<TestType>));
  CHECK(std::fabs(z(0, 0) - silu(-2)) > 0.05);
  // One weight per token; in place on the first operand.
  tensor<bf16, 2> b(3, 5), v(3, 5);
  tensor<W, 1> three(3);
  for (index_t t = 0; t < 3; ++t) {
    three[t] = W(t);
    for (index_t i = 0; i < 5; ++i) b(t, i) = store<bf16>(1.0), v(t, i) = store<bf16>(1.5);
  }
  swiglu(e, b.all(), v.all(), three.all(), 10, b.all());
  for (index_t t = 0; t < 3; ++t)
    for (index_t i = 0; i < 5; ++i)
      CHECK(stored_as_near(b(t, i), silu(1) * 1.5 * double(t), wide_sum<TestType>));
  CHECK_THROWS_AS(swiglu(e, b.all(), v.all().rows(0, 2), {}, 10, b.all()), contract_violation);
}

TEST_CASE("top_k: falling value, ties to the lower index, zeros of both signs tie", "[op]") {
  const auto pick = [](std::vector<float> scores, std::size_t k) {
    std::vector<std::int32_t> order(scores.size()), chosen(k, -7);
    top_k(std::span<const float>(scores), std::span(order), std::span(chosen));
    return chosen;
  };
  using v = std::vector<std::int32_t>;
  CHECK(pick({1, 3, 2}, 3) == v{1, 2, 0});
  CHECK(pick({5, 5, 5, 5}, 2) == v{0, 1});
  CHECK(pick({1, 2, 2, 3, 2, 0}, 3) == v{3, 1, 2});
  CHECK(pick({-0.0f, 0.0f, -1, 0.0f}, 3) == v{0, 1, 3});
  CHECK(pick({-1, -2, -3}, 1) == v{0});
  CHECK(pick({2, 1}, 4) == v{0, 1, -7, -7});  // only as many as there are
  CHECK(pick({}, 2) == v{-7, -7});
  CHECK(pick({4, 4}, 0).empty());
  // Against a stable sort, with many ties.
  integers r{2};
  for (int round = 0; round < 50; ++round) {
    const auto n = static_cast<std::size_t>(1 + r.below(200));
    std::vector<float> s(n);
    for (float& x : s) x = float(r.below(8));
    std::vector<std::int32_t> all(n);
    for (std::size_t i = 0; i < n; ++i) all[i] = std::int32_t(i);
    std::stable_sort(all.begin(), all.end(),
                     [&](auto a, auto b) { return s[std::size_t(a)] > s[std::size_t(b)]; });
    const auto k = static_cast<std::size_t>(1 + r.below(index_t(n)));
    all.resize(k);
    CHECK(pick(s, k) == all);
  }
}

TEST_CASE("embed reads a row per token, into every stream", "[op]") {
  random_model m(tiny_config({0}));
  exec::ref e;
  for (const stored_as format : {stored_as::f32, stored_as::bf16, stored_as::fp8, stored_as::fp4}) {
    const auto table = m.matrix(10, 6, format);
    const std::int32_t ids[] = {9, 0, 9, 4};
    tensor<float, 2> y(4, 6);
    embed(e, {ids, 4}, table, y.all());
    tensor<float, 3> h(4, 3, 6);
    copy_to_streams(e, y.all(), h.all());
    for (index_t t = 0; t < 4; ++t)
      for (index_t d = 0; d < 6; ++d) {
        CHECK(double(y(t, d)) == table.at(ids[t], d));
        for (index_t j = 0; j < 3; ++j) CHECK(h(t, j, d) == y(t, d));
      }
  }
}

TEMPLATE_TEST_CASE("linear with every weight format, partial tiles included", "[op]", DSV4_TEST_EXECUTORS) {
  TestType e;
  random_model m(tiny_config({0}));
  integers r{3};
  for (const stored_as format : {stored_as::f32, stored_as::bf16, stored_as::fp8, stored_as::fp4})
    for (const auto& [rows, cols] :
         {std::pair<index_t, index_t>{1, 2}, {5, 32}, {130, 64}, {7, 160}, {129, 258}, {64, 512}}) {
      const auto w = m.matrix(rows, cols, format);
      for (const index_t t : {1, 2, 9}) {
        const auto x = random_tensor<bf16>(r, 1, t, cols);
        tensor<bf16, 2> y(t, rows);
        tensor<wide_t<TestType>, 2> wide(t, rows);
        linear(e, tensor<bf16, 2>(x).all(), w, y.all());
        linear(e, tensor<bf16, 2>(x).all(), w, wide.all());
        bool right = true;
        for (index_t i = 0; i < t; ++i)
          for (index_t o = 0; o < rows; ++o) {
            double sum = 0, size = 0;
            for (index_t k = 0; k < cols; ++k) {
              sum += value(x(i, k)) * w.at(o, k);
              size += std::fabs(value(x(i, k)) * w.at(o, k));
            }
            right = right && stored_as_near(y(i, o), sum, wide_sum<TestType>, size) &&
                    close(wide(i, o), sum, wide_sum<TestType>, size);
          }
        INFO("format " << int(format) << " [" << rows << ", " << cols << "], " << t << " tokens");
        CHECK(right);
      }
    }
  tensor<bf16, 2> x(2, 8), y(2, 4), thin(2, 3), few(1, 4);
  const auto w = m.matrix(4, 8, stored_as::bf16);
  CHECK_NOTHROW(linear(e, x.all(), w, y.all()));
  CHECK_THROWS_AS(linear(e, x.all(), w, thin.all()), contract_violation);
  CHECK_THROWS_AS(linear(e, x.all(), w, few.all()), contract_violation);
  CHECK_THROWS_AS(linear(e, y.all(), w, y.all()), contract_violation);
}

TEMPLATE_TEST_CASE(
    "quantised_linear: e4m3 activations times the codes, only where the policy and the weight ask for it",
    "[op]", DSV4_TEST_EXECUTORS) {
  TestType e;
  exec::ref ref;
  workspace scratch;
  random_model m(tiny_config({0}));
  integers r{4};
  for (const stored_as format : {stored_as::bf16, stored_as::fp8, stored_as::fp4})
    for (const index_t cols : {32, 128, 288}) {
      const auto w = m.matrix(20, cols, format);
      auto x = random_tensor<bf16>(r, 1, index_t{3}, cols);
      for (index_t k = 0; k < std::min<index_t>(cols, 128); ++k)
        x(1, k) = store<bf16>(value(x(1, k)) / 1024), x(2, k) = {};  // scales of their own
      tensor<e4m3, 2> code(3, cols);
      tensor<float, 2> scale(3, (cols + 127) / 128);
      act_quant(ref, x.all(), code.all(), scale.all());
      tensor<bf16, 2> y(3, 20), plain(3, 20);
      quantised_linear<official>(e, scratch, x.all(), w, y.all());
      linear(e, x.all(), w, plain.all());
      bool right = true, differs = false;
      for (index_t i = 0; i < 3; ++i)
        for (index_t o = 0; o < 20; ++o) {
          double sum = 0, size = 0;
          for (index_t k = 0; k < cols; ++k) {
            const double v =
                format == stored_as::bf16 ? value(x(i, k)) : code(i, k).decode() * double(scale(i, k / 128));
            sum += v * w.at(o, k);
            size += std::fabs(v * w.at(o, k));
          }
          right = right && stored_as_near(y(i, o), sum, wide_sum<TestType>, size);
          differs = differs || y(i, o) != plain(i, o);
        }
      INFO("format " << int(format) << ", " << cols << " columns");
      CHECK(right);
      CHECK(differs == (format != stored_as::bf16));
      // float32 numerics quantise nothing.
      tensor<float, 2> xf(3, cols), yf(3, 20), pf(3, 20);
      for (index_t i = 0; i < x.size(); ++i) xf.data()[i] = float(value(x.data()[i]));
      quantised_linear<float32<float>>(e, scratch, xf.all(), w, yf.all());
      linear(e, xf.all(), w, pf.all());
      CHECK(std::equal(yf.data(), yf.data() + yf.size(), pf.data()));
    }
}

TEMPLATE_TEST_CASE("grouped_linear: each group its own rows", "[op]", DSV4_TEST_EXECUTORS) {
  TestType e;
  random_model m(tiny_config({0}));
  integers r{5};
  for (const stored_as format : {stored_as::f32, stored_as::bf16, stored_as::fp8, stored_as::fp4}) {
    const auto w = m.matrix(3 * 10, 64, format);
    const auto x = random_tensor<bf16>(r, 1, index_t{4}, index_t{3}, index_t{64});
    tensor<bf16, 3> y(4, 3, 10);
    grouped_linear(e, tensor<bf16, 3>(x).all(), w, y.all());
    bool right = true;
    for (index_t t = 0; t < 4; ++t)
      for (index_t g = 0; g < 3; ++g)
        for (index_t o = 0; o < 10; ++o) {
          double sum = 0, size = 0;
          for (index_t k = 0; k < 64; ++k)
            sum += value(x(t, g, k)) * w.at(g * 10 + o, k),
                size += std::fabs(value(x(t, g, k)) * w.at(g * 10 + o, k));
          right = right && stored_as_near(y(t, g, o), sum, wide_sum<TestType>, size);
        }
    CHECK(right);
  }
}

}  // namespace dsv4_test
