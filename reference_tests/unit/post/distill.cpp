// SPDX-License-Identifier: MIT
// Distillation: tiles against rows, both payloads, excluded tokens, executors, finite differences.
#include <tbb/global_control.h>

#include <limits>

#include "../train/finite_difference.hpp"
#include "catch.hpp"
#include "dsv4/cpu/train/product.hpp"
#include "dsv4/post/distill.hpp"
#include "dsv4/post/divergence.hpp"
#include "operands.hpp"

namespace dsv4_test::post_distill {
namespace {

using namespace dsv4::post;
constexpr double nan = std::numeric_limits<double>::quiet_NaN(),
                 inf = std::numeric_limits<double>::infinity();

tensor<double, 1> row(std::vector<double> x) {
  tensor<double, 1> r(static_cast<index_t>(x.size()));
  std::copy(x.begin(), x.end(), r.data());
  return r;
}

TEST_CASE("divergence: direction, zero, and gradients of every mixture", "[post]") {
  const auto student = row({0, 1, 2}), teacher = row({2, 0, 0});
  // KL(student || teacher) by its definition.
  const double s = std::exp(0) + std::exp(1) + std::exp(2), t = std::exp(2) + 2;
  double expected = 0;
  for (index_t v = 0; v < 3; ++v)
    expected += std::exp(student[v]) / s * ((student[v] - std::log(s)) - (teacher[v] - std::log(t)));
  CHECK(close(divergence<double>(student, teacher, {}, 0, {}), expected, 1e-14));
  CHECK(close(divergence<double>(teacher, student, {.beta = 0}, 0, {}), expected, 1e-14));
  CHECK(divergence<double>(student, student, {}, 0, {}) == 0);
  // Half of the way the divergence is symmetric.
  CHECK(close(divergence<double>(student, teacher, {.beta = 0.5}, 0, {}),
              divergence<double>(teacher, student, {.beta = 0.5}, 0, {}), 1e-14));

  integers r{3};
  auto z = numbers(r, 3, index_t{7});
  const auto other = numbers(r, 3, index_t{7});
  for (const double beta : {0.0, 0.3, 0.5, 1.0})
    for (const double temperature : {0.7, 1.0, 2.0}) {
      const divergence_rule rule{temperature, beta};
      tensor<double, 1> g(7);
      divergence<double>(z, other, rule, 1.25, g);
      CHECK(std::fabs(fold(7, 0.0, [&](index_t v) { return g[v]; })) < 1e-14);
      check_gradient("student", std::span(z.data(), 7), std::span(g.data(), 7),
                     [&] { return 1.25 * divergence<double>(z, other, rule, 0, {}); });
    }
}

TEST_CASE("divergence: what the student excludes adds nothing, whatever the teacher thinks", "[post]") {
  const auto student = row({0.5, -inf, 1, -inf}), teacher = row({1, 2, 0, -inf});
  const double lse = log_sum_exp(teacher.data(), 4);
  const auto two = row({0.5, 1}), of = row({1 - lse, 0 - lse});
  // By hand over the two tokens that are left; the teacher's probabilities are not renormalised.
  const double a = log_sum_exp(two.data(), 2);
  const double expected = std::exp(0.5 - a) * (0.5 - a - of[0]) + std::exp(1 - a) * (1 - a - of[1]);
  tensor<double, 1> g(4);
  const double kl = divergence<double>(student, teacher, {}, 1, g);
  CHECK(close(kl, expected, 1e-14));
  CHECK((g[1] == 0 && g[3] == 0));
  CHECK(std::isfinite(g[0] + g[2]));
  // The other way round the distance is infinite.
  CHECK(divergence<double>(row({1, 2}), row({1, -inf}), {}, 0, {}) == inf);
  CHECK_THROWS_AS(divergence<double>(two, teacher, {}, 0, {}), contract_violation);
  CHECK_THROWS_AS(divergence<double>(two, two, {.temperature = 0}, 0, {}), contract_violation);
  CHECK_THROWS_AS(divergence<double>(two, two, {.beta = 1.1}, 0, {}), contract_violation);
}

/// A student and a teacher of other width; more tokens than a tile has, and more positions.
template <class T>
struct pair_of_models {
  index_t n, v;
  tensor<T, 2> hidden, head, states, of;
  tensor<T, 1> weight;
  pair_of_models(index_t n, index_t v) : n(n), v(v) {
    integers r{static_cast<std::uint64_t>(n + v)};
    hidden = random_tensor<T>(r, 2, n, index_t{3}), head = random_tensor<T>(r, 2, v, index_t{3});
    states = random_tensor<T>(r, 2, n, index_t{4}), of = random_tensor<T>(r, 2, v, index_t{4});
    weight = tensor<T, 1>(n);
    for (index_t i = 0; i < n; ++i) weight[i] = i % 3 == 1 ? T(0) : T(0.125) * T(1 + i % 5);
  }
  struct outcome {
    double loss;
    tensor<T, 1> kl;
    tensor<T, 2> dhidden, dhead;
  };
  template <class E>
  outcome run(E& e) const {
    outcome o{0, tensor<T, 1>(n), tensor<T, 2>(n, 3), tensor<T, 2>(v, 3)};
    workspace scratch;
    o.loss = distill(e, scratch, hidden_payload<T>{hidden, head}, hidden_payload<T>{states, of}, weight, o.kl,
                     o.dhidden, o.dhead);
    return o;
  }
};

TEST_CASE("distill: tiles of positions and tokens against whole rows", "[post]") {
  const pair_of_models<double> m(distill_positions + 5, 2 * distill_tokens + 3);
  exec::ref e;
  // Few positions by hand: those around the end of the first tile.
  pair_of_models<double> few = m;
  for (index_t i = 0; i < m.n; ++i)
    if (i > 2 && i < m.n - 6) few.weight[i] = 0;
  const auto found = few.run(e);
  tensor<double, 2> logits(m.n, m.v), of(m.n, m.v), dhidden(m.n, 3), dhead(m.v, 3), g(1, m.v);
  double loss = 0;
  for (index_t i = 0; i < m.n; ++i) {
    if (few.weight[i] == 0) {
      CHECK(found.kl[i] == 0);  // not written
      continue;
    }
    kernel::products<exec::ref>::forward<double>(e, few.hidden.all().rows(i, i + 1), few.head,
                                                 logits.all().rows(i, i + 1));
    kernel::products<exec::ref>::forward<double>(e, few.states.all().rows(i, i + 1), few.of,
                                                 of.all().rows(i, i + 1));
    std::fill_n(g.data(), m.v, 0.0);
    const double kl = divergence<double>(logits[i], of[i], {}, few.weight[i], g[0]);
    CHECK(close(found.kl[i], kl, 1e-12, 1));
    loss += few.weight[i] * kl;
    kernel::products<exec::ref>::backward<double>(e, g, few.hidden.all().rows(i, i + 1), few.head,
                                                  dhidden.all().rows(i, i + 1), dhead);
  }
  CHECK(close(found.loss, loss, 1e-12));
  const auto near = [](const tensor<double, 2>& a, const tensor<double, 2>& b) {
    for (index_t i = 0; i < a.size(); ++i)
      if (!close(a.data()[i], b.data()[i], 1e-10, 1e-2)) return false;
    return true;
  };
  CHECK(near(found.dhidden, dhidden));
  CHECK(near(found.dhead, dhead));
}

TEST_CASE("distill: both payloads, positions of weight 0, and executors", "[post]") {
  pair_of_models<double> m(7, 11);
  exec::ref e;
  const auto whole = m.run(e);
  // (2): numbers at positions of weight 0 are not looked at.
  pair_of_models<double> holes = m;
  holes.hidden(1, 0) = nan, holes.states(4, 2) = inf;
  CHECK(holes.run(e).loss == whole.loss);
  // (1): logits instead of states.
  tensor<double, 2> logits(m.n, m.v), dhidden(m.n, 3), dhead(m.v, 3);
  kernel::products<exec::ref>::forward<double>(e, m.states, m.of, logits);
  workspace scratch;
  const double loss = distill(e, scratch, hidden_payload<double>{m.hidden, m.head},
                              logit_payload<double>{logits}, m.weight, {}, dhidden, dhead);
  CHECK(loss == whole.loss);
  CHECK(std::equal(dhidden.data(), dhidden.data() + dhidden.size(), whole.dhidden.data()));
  CHECK(std::equal(dhead.data(), dhead.data() + dhead.size(), whole.dhead.data()));
  // The loss alone, without gradients.
  CHECK(distill(e, scratch, hidden_payload<double>{m.hidden, m.head}, logit_payload<double>{logits}, m.weight,
                {}, {}, {}) == loss);
  // A student that excludes a whole piece, in logits; the teacher excludes what the student allows.
  for (index_t t = 0; t < m.v; ++t) logits(3, t) = t == 4 ? -inf : 0;
  CHECK_THROWS_WITH(
      distill(e, scratch, hidden_payload<double>{m.hidden, m.head}, logit_payload<double>{logits}, m.weight,
              {}, {}, {}),
      Catch::Matchers::ContainsSubstring("position 3") && Catch::Matchers::ContainsSubstring("excludes"));
  const tensor<double, 2> other(m.n, m.v + 1);
  CHECK_THROWS_WITH(distill(e, scratch, hidden_payload<double>{m.hidden, m.head},
                            logit_payload<double>{other}, m.weight, {}, {}, {}),
                    Catch::Matchers::ContainsSubstring("vocabulary"));

  // The fast executor: near the specification, and no bit moves with the threads.
  const pair_of_models<float> wide(300, 5000);
  exec::ref ref;
  exec::cpu one{1};
  const auto expected = wide.run(ref), first = wide.run(one);
  CHECK(close(first.loss, expected.loss, 1e-5));
  for (index_t i = 0; i < first.dhidden.size(); ++i)
    CHECK(close(first.dhidden.data()[i], expected.dhidden.data()[i], 1e-4, 1));
  for (const int threads : {2, 3}) {
    const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, std::size_t(threads));
    exec::cpu more{threads};
    const auto again = wide.run(more);
    CHECK(again.loss == first.loss);
    CHECK(std::equal(first.dhead.data(), first.dhead.data() + first.dhead.size(), again.dhead.data()));
    CHECK(
        std::equal(first.dhidden.data(), first.dhidden.data() + first.dhidden.size(), again.dhidden.data()));
  }
}

}  // namespace
}  // namespace dsv4_test::post_distill
