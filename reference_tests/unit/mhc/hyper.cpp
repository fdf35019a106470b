// SPDX-License-Identifier: MIT
// mHC: Sinkhorn, the split of the mixes, reading, writing, read-out.  Numbers in brackets are the
// post-conditions of mhc/sinkhorn.hpp.
#include "catch.hpp"
#include "dsv4/mhc/head.hpp"
#include "dsv4/mhc/post.hpp"
#include "dsv4/mhc/pre.hpp"
#include "executors.hpp"
#include "operands.hpp"

namespace dsv4_test {
namespace {
double sum_over_i(view<const double, 2> m, index_t j) {
  double s = 0;
  for (index_t i = 0; i < m.extent(0); ++i) s += m(i, j);
  return s;
}
double sum_over_j(view<const double, 2> m, index_t i) {
  double s = 0;
  for (index_t j = 0; j < m.extent(1); ++j) s += m(i, j);
  return s;
}
constexpr double eps = 1e-6;  // hc_eps of every published model
}  // namespace

TEST_CASE("sinkhorn of equal logits is 1/n everywhere", "[mhc]") {
  for (const index_t n : {1, 2, 4}) {
    tensor<double, 2> m(n, n);
    for (double& v : m.all()) v = 3.25;
    sinkhorn(m.all(), 20, 0.0);
    for (const double v : m.all()) CHECK(v == Catch::Approx(1.0 / double(n)).epsilon(1e-14));
  }
}

TEST_CASE("sinkhorn by hand: softmax over j first, then the division by sums over i", "[mhc]") {
  // exp: [[1, 3], [1, 1]] -> rows [[1/4, 3/4], [1/2, 1/2]] -> columns [[1/3, 3/5], [2/3, 2/5]]
  const auto logits = [] {
    tensor<double, 2> m(2, 2);
    m(0, 1) = std::log(3.0);
    return m;
  };
  auto m = logits();
  sinkhorn(m.all(), 1, 0.0);
  const double once[] = {1.0 / 3, 3.0 / 5, 2.0 / 3, 2.0 / 5};
  for (index_t i = 0; i < 4; ++i) CHECK(m.data()[i] == Catch::Approx(once[i]).epsilon(1e-14));
  // One more round: rows / (14/15, 16/15), then columns.
  m = logits();
  sinkhorn(m.all(), 2, 0.0);
  const double a = (1.0 / 3) / (14.0 / 15), b = (3.0 / 5) / (14.0 / 15), c = (2.0 / 3) / (16.0 / 15),
               d = (2.0 / 5) / (16.0 / 15);
  const double twice[] = {a / (a + c), b / (b + d), c / (a + c), d / (b + d)};
  for (index_t i = 0; i < 4; ++i) CHECK(m.data()[i] == Catch::Approx(twice[i]).epsilon(1e-14));
  // eps: after the softmax and in every divisor.
  m = logits();
  sinkhorn(m.all(), 1, 0.5);
  const double with_eps[] = {0.75 / 2.25, 1.25 / 2.75, 1.0 / 2.25, 1.0 / 2.75};
  for (index_t i = 0; i < 4; ++i) CHECK(m.data()[i] == Catch::Approx(with_eps[i]).epsilon(1e-14));
}

TEST_CASE("sinkhorn: sums over i are 1, sums over j only nearly, no symmetry; large logits stay finite",
          "[mhc]") {
  integers r{1};
  double worst_row = 0, asymmetry = 0;
  for (int round = 0; round < 200; ++round) {
    tensor<double, 2> m(4, 4);
    for (double& v : m.all()) v = 8 * r.unit();
    sinkhorn(m.all(), 20, eps);
    for (index_t j = 0; j < 4; ++j) {
      CHECK(std::fabs(sum_over_i(m, j) - 1) < 1e-5);  // (3)
      worst_row = std::max(worst_row, std::fabs(sum_over_j(m, j) - 1));
      for (index_t i = 0; i < 4; ++i) {
        CHECK(m(i, j) >= 0);
        asymmetry = std::max(asymmetry, std::fabs(m(i, j) - m(j, i)));
      }
    }
  }
  CHECK(worst_row > 1e-4);
  CHECK(worst_row < 0.5);
  CHECK(asymmetry > 0.9);
  tensor<double, 2> m(2, 2);
  m(0, 0) = 1e4, m(1, 1) = -1e4;
  sinkhorn(m.all(), 20, eps);
  for (const double v : m.all()) CHECK(std::isfinite(v));
}

TEMPLATE_TEST_CASE("hc_split: pre, post and comb of the packed mixes", "[mhc]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  integers r{2};
  for (const index_t tokens : {1, 2, 3, 8, 19}) {
    const auto mixes = random_tensor<W>(r, 3, tokens, index_t{24});
    const auto base = random_tensor<float>(r, 2, index_t{24});
    tensor<float, 1> scale(3);
    scale[0] = 0.5f, scale[1] = 1.5f, scale[2] = 0.75f;
    tensor<W, 2> pre(tokens, 4), post(tokens, 4);
    tensor<W, 3> comb(tokens, 4, 4);
    kernel::hc_split<TestType>::run(e, mixes.all(), {scale.all(), base.all(), 20, eps}, {post, comb, pre});
    bool right = true;
    const auto near = [](double a, double b) { return close(a, b, 100 * wide_sum<TestType>); };
    for (index_t t = 0; t < tokens; ++t) {
      tensor<double, 2> m(4, 4);
      for (index_t j = 0; j < 4; ++j) {
        right = right &&
                near(pre(t, j), 1 / (1 + std::exp(-(double(mixes(t, j)) * 0.5 + base[j]))) + eps);  // (1)
        right = right &&
                near(post(t, j), 2 / (1 + std::exp(-(double(mixes(t, 4 + j)) * 1.5 + base[4 + j]))));  // (2)
        right = right && pre(t, j) > 0 && post(t, j) >= 0 && post(t, j) <= 2;
        for (index_t i = 0; i < 4; ++i)
          m(i, j) = double(mixes(t, 8 + 4 * i + j)) * 0.75 + base[8 + 4 * i + j];
      }
      sinkhorn(m.all(), 20, eps);
      for (index_t i = 0; i < 16; ++i) right = right && near(comb[t].data()[i], m.data()[i]);
    }
    INFO(tokens << " tokens");
    CHECK(right);
  }
}

TEMPLATE_TEST_CASE("hc_mixes: the norm's factor multiplies the product", "[mhc]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  random_model model(tiny_config({0}));
  integers r{3};
  for (const index_t cols : {4, 128, 200}) {
    const auto fn = model.matrix(24, cols, stored_as::f32);
    auto x = random_tensor<bf16>(r, 2, index_t{3}, cols);
    for (index_t c = 0; c < cols; ++c) x(2, c) = {};
    tensor<W, 2> mixes(3, 24);
    kernel::hc_mixes<TestType>::run(e, view<const bf16, 2>(x.all()), fn, eps, mixes.all());
    for (index_t t = 0; t < 3; ++t) {
      double squares = 0;
      for (index_t c = 0; c < cols; ++c) squares += value(x(t, c)) * value(x(t, c));
      const double factor = 1 / std::sqrt(squares / double(cols) + eps);
      for (index_t m = 0; m < 24; ++m) {
        double sum = 0, size = 0;
        for (index_t c = 0; c < cols; ++c)
          sum += fn.at(m, c) * value(x(t, c)), size += std::fabs(fn.at(m, c) * value(x(t, c)));
        CHECK(close(mixes(t, m), sum * factor, wide_sum<TestType>, size * factor));
        if (t == 2) CHECK(mixes(t, m) == 0);
      }
    }
  }
}

TEMPLATE_TEST_CASE("hc_collapse and hc_post by hand", "[mhc]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  // Two streams, one channel: y = 2 * 3 + 0.5 * 4
  tensor<float, 3> h(1, 2, 1);
  h(0, 0, 0) = 3, h(0, 1, 0) = 4;
  tensor<W, 2> pre(1, 2), post(1, 2);
  pre(0, 0) = 2, pre(0, 1) = W(0.5);
  tensor<float, 2> y(1, 1), out(1, 1);
  kernel::hc_collapse<TestType>::run(e, view<const W, 2>(pre.all()), view<const float, 3>(h.all()), y.all());
  CHECK(y(0, 0) == 8);
  // h'[j] = post[j] out + sum_i comb[i][j] h[i]; comb = [[1, 10], [100, 1000]] is far from symmetric.
  post(0, 0) = 1, post(0, 1) = 2;
  out(0, 0) = 5;
  tensor<W, 3> comb(1, 2, 2);
  comb(0, 0, 0) = 1, comb(0, 0, 1) = 10, comb(0, 1, 0) = 100, comb(0, 1, 1) = 1000;
  hc_post(e, out.all(), hyper_mix<W>{post, comb}, h.all());
  CHECK(h(0, 0, 0) == 5 + 1 * 3 + 100 * 4);
  CHECK(h(0, 1, 0) == 10 + 10 * 3 + 1000 * 4);
}

TEMPLATE_TEST_CASE("hc_collapse and hc_post: one store, any size", "[mhc]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  integers r{4};
  for (const index_t d : {1, 7, 32, 65})
    for (const index_t tokens : {1, 5}) {
      const auto h = random_tensor<bf16>(r, 2, tokens, index_t{4}, d);
      const auto out = random_tensor<bf16>(r, 2, tokens, d);
      auto pre = random_tensor<W>(r, 1, tokens, index_t{4}),
           post = random_tensor<W>(r, 2, tokens, index_t{4});
      auto comb = random_tensor<W>(r, 1, tokens, index_t{4}, index_t{4});
      for (W& v : pre.all()) v /= 3;  // not exact in bf16
      for (W& v : comb.all()) v /= 3;
      tensor<bf16, 2> y(tokens, d);
      kernel::hc_collapse<TestType>::run(e, view<const W, 2>(pre.all()), view<const bf16, 3>(h.all()),
                                         y.all());
      auto next = h;
      hc_post(e, tensor<bf16, 2>(out).all(), hyper_mix<W>{post, comb}, next.all());
      bool right = true;
      for (index_t t = 0; t < tokens; ++t)
        for (index_t c = 0; c < d; ++c) {
          double sum = 0;
          for (index_t j = 0; j < 4; ++j) sum += double(pre(t, j)) * value(h(t, j, c));
          right = right && stored_as_near(y(t, c), sum, wide_sum<TestType>, 4);
          for (index_t j = 0; j < 4; ++j) {
            double carried = double(post(t, j)) * value(out(t, c));
            for (index_t i = 0; i < 4; ++i) carried += double(comb(t, i, j)) * value(h(t, i, c));
            right = right && stored_as_near(next(t, j, c), carried, wide_sum<TestType>, 8);
          }
        }
      CHECK(right);
    }
}

TEMPLATE_TEST_CASE("head: sigmoid plus eps without Sinkhorn, norm, wide logits", "[mhc]",
                   DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  random_model model(tiny_config({0}));
  const config& c = model.c;
  integers r{5};
  const index_t tokens = 3, d = c.hidden_size;
  auto h = random_tensor<bf16>(r, 2, tokens, index_t{4}, d);
  tensor<W, 2> logits(tokens, c.vocab_size);
  quiet_call<TestType> call(e, c);
  const hyper_connection_weights<>& w = model.weights.hc_head;
  head(*call, h.all(), {&w, model.weights.norm.all(), &model.weights.head}, logits.all());
  for (index_t t = 0; t < tokens; ++t) {
    double squares = 0;
    for (index_t i = 0; i < 4 * d; ++i) squares += value(h[t].data()[i]) * value(h[t].data()[i]);
    const double factor = 1 / std::sqrt(squares / double(4 * d) + c.rms_norm_eps);
    std::vector<double> y(static_cast<std::size_t>(d));
    for (index_t j = 0; j < 4; ++j) {
      double mix = 0;
      for (index_t i = 0; i < 4 * d; ++i) mix += w.fn.at(j, i) * value(h[t].data()[i]);
      const double pre =
          1 / (1 + std::exp(-(mix * factor * double(w.scale[0]) + double(w.base[j])))) + c.hc_eps;
      for (index_t i = 0; i < d; ++i) y[std::size_t(i)] += pre * value(h(t, j, i));
    }
    double mean = 0;
    for (double& v : y) v = rounded<bf16>(v), mean += v * v / double(d);
    for (index_t i = 0; i < d; ++i)
      y[std::size_t(i)] =
          rounded<bf16>(y[std::size_t(i)] / std::sqrt(mean + c.rms_norm_eps) * double(model.weights.norm[i]));
    for (index_t v = 0; v < c.vocab_size; ++v) {
      double sum = 0;
      for (index_t i = 0; i < d; ++i) sum += model.weights.head.at(v, i) * y[std::size_t(i)];
      // With float in between, y may round to a neighbour.
      CHECK(close(logits(t, v), sum, std::is_same_v<W, double> ? 1e-12 : 0x1p-7, 4));
    }
  }
}

}  // namespace dsv4_test
