// SPDX-License-Identifier: MIT
// Routing and experts.  Numbers in brackets are the post-conditions of moe/gate.hpp.
#include <set>

#include "catch.hpp"
#include "dsv4/moe/moe.hpp"
#include "executors.hpp"
#include "operands.hpp"

namespace dsv4_test {
TEST_CASE("softplus: by hand, and x itself above 20", "[moe]") {
  CHECK(softplus(0.0) == std::log(2.0));
  CHECK(softplus(1.0) == Catch::Approx(1.3132616875182228).epsilon(1e-15));
  CHECK(softplus(-30.0) == Catch::Approx(std::exp(-30.0)).epsilon(1e-12));
  CHECK(softplus(20.0) > 20.0);             // still the formula
  CHECK(softplus(20.000001) == 20.000001);  // the line
  CHECK(softplus(1e6) == 1e6);
  CHECK(softplus(800.0f) == 800.0f);
  CHECK(softplus(-1e6) == 0.0);
}

TEMPLATE_TEST_CASE("gate_scores: sqrt(softplus), the bias beside it", "[moe]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  tensor<W, 2> scores(2, 4), biased(2, 4);
  const double logits[] = {0, 1, 25, -40, 400, 20, 19, -3};
  tensor<float, 1> bias(4);
  bias[0] = 0.5f, bias[1] = -8, bias[2] = 0, bias[3] = 2;
  for (index_t i = 0; i < 8; ++i) scores.data()[i] = W(logits[i]);
  kernel::gate_scores<TestType>::run(e, scores.all(), bias.all(), biased.all());
  for (index_t i = 0; i < 8; ++i) {
    CHECK(close(scores.data()[i], std::sqrt(logits[i] > 20 ? logits[i] : std::log1p(std::exp(logits[i]))),
                wide_sum<TestType>));
    CHECK(biased.data()[i] == scores.data()[i] + W(bias[i % 4]));
  }
  kernel::gate_scores<TestType>::run(e, scores.all(), {}, biased.all());  // hash layers
  CHECK(std::equal(scores.data(), scores.data() + 8, biased.data()));
}

TEMPLATE_TEST_CASE("gate by hand: ties, bias, order, weights", "[moe]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  config c = tiny_config({0});
  c.hidden_size = 2;
  c.n_routed_experts = 4;
  c.num_experts_per_tok = 3;
  c.routed_scaling_factor = 2.5;
  // logits of x = (1, 0): 1, 2, 1, 1
  const float rows[] = {1, 0, 2, 0, 1, 0, 1, 0};
  gate_weights<> w;
  w.weight = {dtype::f32, reinterpret_cast<const std::byte*>(rows), 4, 2, dtype::f8_e8m0, nullptr, 1, 1};
  w.bias = tensor<float, 1>(4);
  tensor<float, 2> x(1, 2);
  x(0, 0) = 1;
  const std::int32_t ids[] = {1};
  quiet_call<TestType> call(e, c);
  const auto score = [](double l) { return std::sqrt(std::log1p(std::exp(l))); };
  {
    const auto r = gate(*call, x.all(), {ids, 1}, w);
    CHECK(r.indices(0, 0) == 1);
    CHECK(r.indices(0, 1) == 0);  // ties to the lower index
    CHECK(r.indices(0, 2) == 2);
    const double sum = score(2) + 2 * score(1);
    CHECK(close(r.weights(0, 0), score(2) / sum * 2.5, wide_sum<TestType>));
    CHECK(close(r.weights(0, 1), score(1) / sum * 2.5, wide_sum<TestType>));
    CHECK(close(r.weights(0, 0) + r.weights(0, 1) + r.weights(0, 2), W(2.5), wide_sum<TestType>));  // (1)
  }
  w.bias[3] = 10, w.bias[1] = -10;
  {
    const auto r = gate(*call, x.all(), {ids, 1}, w);
    CHECK(r.indices(0, 0) == 3);  // (3) listed by biased score
    CHECK(r.indices(0, 1) == 0);
    CHECK(r.indices(0, 2) == 2);
    for (index_t k = 0; k < 3; ++k) CHECK(close(r.weights(0, k), 2.5 / 3, wide_sum<TestType>));
  }
  // A table: its experts in its order, repeated ones included, I64 or I32.
  const std::int64_t wide[] = {0, 0, 0, 3, 1, 3};
  const std::int32_t narrow[] = {0, 0, 0, 3, 1, 3};
  for (const auto& table : {expert_table{dtype::i64, reinterpret_cast<const std::byte*>(wide), 2, 3},
                            expert_table{dtype::i32, reinterpret_cast<const std::byte*>(narrow), 2, 3}}) {
    gate_weights<> hash{w.weight, {}, table};
    const auto r = gate(*call, x.all(), {ids, 1}, hash);
    CHECK(r.indices(0, 0) == 3);
    CHECK(r.indices(0, 1) == 1);
    CHECK(r.indices(0, 2) == 3);
    CHECK(close(r.weights(0, 1), score(2) / (score(2) + 2 * score(1)) * 2.5, wide_sum<TestType>));
  }
}

TEMPLATE_TEST_CASE("expert by hand: clamps, silu, weight before w2", "[moe]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  workspace scratch;
  // w1 = w3 = w2 = identity: y = silu(min(x, 2)) clamp(x, 2) weight
  const float identity[] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
  const weight_matrix eye{
      dtype::f32, reinterpret_cast<const std::byte*>(identity), 4, 4, dtype::f8_e8m0, nullptr, 1, 1};
  const expert_weights<> w{eye, eye, eye};
  tensor<float, 2> x(2, 4), y(2, 4);
  for (index_t t = 0; t < 2; ++t) x(t, 0) = 1, x(t, 1) = 5, x(t, 2) = -5, x(t, 3) = -1;
  tensor<W, 1> weight(2);
  weight[0] = 1, weight[1] = 3;
  const auto silu = [](double a) { return a / (1 + std::exp(-a)); };
  const double expected[] = {silu(1), silu(2) * 2, silu(-5) * -2, silu(-1) * -1};
  expert<float32<float>>(e, scratch, x.all(), w, view<const W, 1>(weight.all()), 2, y.all());
  for (index_t i = 0; i < 4; ++i) {
    CHECK(close(y(0, i), expected[i], 4 * float_sum<TestType>));
    CHECK(close(y(1, i), 3 * expected[i], 4 * float_sum<TestType>));
  }
  expert<float32<float>>(e, scratch, x.all(), w, {}, 2, y.all());
  for (index_t i = 0; i < 4; ++i) CHECK(close(y(1, i), expected[i], 4 * float_sum<TestType>));
}

TEMPLATE_TEST_CASE("expert, official: stores after w1, w3, swiglu, w2; the weight is inside the store",
                   "[moe]", exec::ref, exec::cpu) {
  TestType e;
  exec::ref ref;
  workspace scratch;
  integers r{6};
  for (const stored_as format : {stored_as::fp4, stored_as::fp8, stored_as::bf16}) {
    random_model m(tiny_config({0}), {format, format, format});
    const expert_weights<> w{m.matrix(64, 160, format, 1), m.matrix(64, 160, format, 1),
                             m.matrix(160, 64, format)};
    const index_t tokens = 5;
    auto x = random_tensor<bf16>(r, 2, tokens, index_t{160});
    auto weight = random_tensor<double>(r, 1, tokens);
    for (double& v : weight.all()) v = (v + 1.5) / 3;
    tensor<bf16, 2> y(tokens, 160), a(tokens, 64), u(tokens, 64), expected(tokens, 160);
    expert<official>(e, scratch, x.all(), w, view<const double, 1>(weight.all()), 1.5, y.all());
    quantised_linear<official>(ref, scratch, x.all(), w.w1, a.all());
    quantised_linear<official>(ref, scratch, x.all(), w.w3, u.all());
    for (index_t i = 0; i < a.size(); ++i) {
      const double g = std::min(value(a.data()[i]), 1.5), v = std::clamp(value(u.data()[i]), -1.5, 1.5);
      a.data()[i] = store<bf16>(g / (1 + std::exp(-g)) * v * weight[i / 64]);
    }
    quantised_linear<official>(ref, scratch, a.all(), w.w2, expected.all());
    CHECK(std::equal(y.data(), y.data() + y.size(), expected.data()));
  }
}

TEMPLATE_TEST_CASE("experts: every token to its own, summed in increasing id", "[moe]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  workspace scratch;
  integers r{7};
  config c = tiny_config({0});
  c.n_routed_experts = 7;
  c.num_experts_per_tok = 3;
  random_model m(c);
  const auto& all = m.weights.layers[0].ffn.experts;
  for (const index_t tokens : {1, 2, 6, 33}) {
    auto x = random_tensor<bf16>(r, 2, tokens, c.hidden_size);
    tensor<std::int32_t, 2> indices(tokens, 3);
    tensor<W, 2> weights(tokens, 3), routed(tokens, c.hidden_size);
    for (index_t t = 0; t < tokens; ++t)
      for (index_t k = 0; k < 3; ++k) {
        indices(t, k) = std::int32_t((5 * t + 3 * k) % 6);  // nobody goes to expert 6; some lists fall
        weights(t, k) = W(1 + t + k) / 4;
      }
    indices(0, 1) = indices(0, 0);  // a table may name an expert twice
    kernel::experts<TestType>::template run<official>(e, scratch, x.all(), routing<W>{indices, weights}, all,
                                                      c.swiglu_limit, routed.all());
    for (index_t t = 0; t < tokens; ++t) {
      std::vector<double> sum(static_cast<std::size_t>(c.hidden_size));
      for (index_t id = 0; id < 7; ++id)
        for (index_t k = 0; k < 3; ++k) {
          if (indices(t, k) != id) continue;
          tensor<bf16, 2> y(1, c.hidden_size);
          expert<official>(e, scratch, x.all().rows(t, t + 1), all[std::size_t(id)],
                           view<const W, 1>(&weights(t, k), 1), c.swiglu_limit, y.all());
          for (index_t d = 0; d < c.hidden_size; ++d) sum[std::size_t(d)] += value(y(0, d));
        }
      bool right = true;
      for (index_t d = 0; d < c.hidden_size; ++d)
        right = right && close(routed(t, d), sum[std::size_t(d)], wide_sum<TestType>, 4);
      INFO(tokens << " tokens, token " << t);
      CHECK(right);
    }
  }
}

TEMPLATE_TEST_CASE("moe: routed plus shared, one store", "[moe]", DSV4_TEST_EXECUTORS) {
  TestType e;
  using W = wide_t<TestType>;
  tensor<W, 2> routed(1, 2);
  tensor<bf16, 2> shared(1, 2), out(1, 2);
  // 1 + (2^-8 + 2^-20): above the tie only if the routed sum was not stored on the way.
  routed(0, 0) = W(0x1p-8 + 0x1p-20), shared(0, 0) = store<bf16>(1.0);
  routed(0, 1) = W(0x1p-8), shared(0, 1) = store<bf16>(1.0);  // a tie: to even
  kernel::add_shared<TestType>::run(e, view<const W, 2>(routed.all()), view<const bf16, 2>(shared.all()),
                                    out.all());
  CHECK(value(out(0, 0)) == 1 + 0x1p-7);
  CHECK(value(out(0, 1)) == 1);
}

}  // namespace dsv4_test
