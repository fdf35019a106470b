// SPDX-License-Identifier: MIT
// Low-rank adapters: products and weights give one gradient, that of finite differences; merging, into published formats too.
#include "dsv4/train/lora.hpp"
#include "catch.hpp"
#include "dsv4/train/quantise.hpp"
#include "finite_difference.hpp"
#include "operands.hpp"

namespace dsv4_test {
namespace {

using namespace dsv4::train;
constexpr double scale = 1.75;

struct one_weight {
  integers r{9};
  variable<2> x{r, 1, index_t{6}, index_t{5}}, a{r, 1, index_t{2}, index_t{5}},
      b{r, 1, index_t{4}, index_t{2}};
  tensor<double, 2> w = numbers(r, 1, index_t{4}, index_t{5}), dy = numbers(r, 1, index_t{6}, index_t{4}),
                    thin{6, 2};
  exec::ref e;
  workspace scratch;

  tensor<double, 2> forward() {
    tensor<double, 2> y(6, 4);
    project<exec::ref, double>(e, x, w, y);
    lora_forward<exec::ref, double>(e, scratch, x, a.constant(), b.constant(), scale, thin, y);
    return y;
  }
};

TEST_CASE("lora: forward and backward by products", "[train]") {
  one_weight m;
  const auto loss = [&] { return inner(m.forward(), m.dy); };
  loss();
  // x has the frozen weight's gradient, too.
  tensor<double, 2> unused(4, 5);
  project_backward<exec::ref, double>(m.e, m.dy, m.x, m.w, m.x.gradient, unused);
  lora_backward<exec::ref, double>(m.e, m.scratch, m.dy, m.x, m.a.constant(), m.b.constant(), scale, m.thin,
                                   m.x.gradient, m.a.gradient, m.b.gradient);
  m.x.check("x", loss);
  m.a.check("A", loss);
  m.b.check("B", loss);
  // Without dx.
  const tensor<double, 2> da = m.a.gradient;
  m.a.forget(before), m.b.forget(before);
  lora_backward<exec::ref, double>(m.e, m.scratch, m.dy, m.x, m.a.constant(), m.b.constant(), scale, m.thin,
                                   {}, m.a.gradient, m.b.gradient);
  CHECK(std::equal(da.data(), da.data() + da.size(), m.a.gradient.data()));
}

TEST_CASE("lora: the merged weight gives the same outputs, and its gradient the same gradients", "[train]") {
  one_weight m;
  const tensor<double, 2> y = m.forward();
  tensor<double, 2> merged(4, 5), again(6, 4), dw(4, 5), da(2, 5), db(4, 2);
  lora_merge<exec::ref, double>(m.e, m.w, m.a.constant(), m.b.constant(), scale, merged);
  project<exec::ref, double>(m.e, m.x, merged, again);
  for (index_t i = 0; i < y.size(); ++i) CHECK(close(y.data()[i], again.data()[i], 1e-13, 1));
  // A full-rank step's gradient, pulled back.
  project_backward<exec::ref, double>(m.e, m.dy, m.x, merged, {}, dw);
  lora_pull_back<exec::ref, double>(m.e, m.scratch, dw, m.a.constant(), m.b.constant(), scale, da, db);
  m.a.forget(0), m.b.forget(0);
  lora_backward<exec::ref, double>(m.e, m.scratch, m.dy, m.x, m.a.constant(), m.b.constant(), scale, m.thin,
                                   {}, m.a.gradient, m.b.gradient);
  for (index_t i = 0; i < da.size(); ++i) CHECK(close(da.data()[i], m.a.gradient.data()[i], 1e-13, 1));
  for (index_t i = 0; i < db.size(); ++i) CHECK(close(db.data()[i], m.b.gradient.data()[i], 1e-13, 1));
  // In place.
  lora_merge<exec::ref, double>(m.e, m.w, m.a.constant(), m.b.constant(), scale, m.w);
  CHECK(std::equal(merged.data(), merged.data() + merged.size(), m.w.data()));
}

TEST_CASE("lora: adapters of a model", "[train]") {
  const config c = smallest_config();
  const auto model = parameter_layout::of<float>(c);
  const auto l =
      lora_layout::of<float>(model, {.rank = 3, .alpha = 6, .targets = {".attn.wq_b.", ".experts."}});
  CHECK(l.settings.scale() == 2);
  index_t experts = 0, queries = 0;
  for (const lora_layout::target& t : l.targets) {
    (t.weight.name.find(".experts.") != std::string::npos ? experts : queries) += 1;
    CHECK(t.a.shape == std::vector<index_t>{3, t.weight.shape[1]});
    CHECK(t.b.shape == std::vector<index_t>{t.weight.shape[0], 3});
    CHECK(t.a.name + t.b.name == t.weight.name.substr(0, t.weight.name.size() - 7) + ".lora_A.weight" +
                                     t.weight.name.substr(0, t.weight.name.size() - 7) + ".lora_B.weight");
  }
  const index_t blocks = c.num_hidden_layers + c.num_nextn_predict_layers;
  CHECK(experts == 3 * c.n_routed_experts * blocks);
  CHECK(queries == blocks);  // neither the indexer's wq_b nor the shared experts
  CHECK(l.parameters.all.size() == 2 * l.targets.size());

  // At the start the model is the model, to the bit, also in the published formats; then A moves nothing, B does.
  integers r{4};
  tensor<float, 1> weights(model.size), adapters(l.parameters.size), merged(model.size),
      published(model.size);
  for (const parameter_info& p : model.all)
    for (index_t i = 0; i < p.size(); ++i) weights[p.offset + i] = 0.1f * r.unit();
  fake_quantise<float>(model, weights, weights);  // as a published checkpoint gives them
  l.initialise<float>(adapters, [](const std::string&, index_t i) { return i % 2 ? 1.0 : -0.5; });
  exec::ref e;
  l.merge<exec::ref, float>(e, weights, adapters, merged);
  CHECK(std::equal(weights.data(), weights.data() + model.size, merged.data()));
  fake_quantise<float>(model, merged, published);
  CHECK(std::equal(weights.data(), weights.data() + model.size, published.data()));

  // Other weights than the targets never change.
  for (const lora_layout::target& t : l.targets)
    for (index_t i = 0; i < t.b.size(); ++i) adapters[t.b.offset + i] = 0.05f * float(i % 7 - 3);
  l.merge<exec::ref, float>(e, weights, adapters, merged);
  fake_quantise<float>(model, merged, published);
  index_t moved = 0;
  for (const parameter_info& p : model.all) {
    const bool same = std::equal(weights.data() + p.offset, weights.data() + p.offset + p.size(),
                                 merged.data() + p.offset),
               same_published = std::equal(weights.data() + p.offset, weights.data() + p.offset + p.size(),
                                           published.data() + p.offset);
    const bool target = std::any_of(l.targets.begin(), l.targets.end(),
                                    [&](const auto& t) { return t.weight.name == p.name; });
    INFO(p.name);
    CHECK(same == !target);
    CHECK(same_published == !target);
    moved += target;
  }
  CHECK(moved == static_cast<index_t>(l.targets.size()));
  // What is published is W' rounded once: FP4 experts and FP8 projections.
  const lora_layout::target& t = l.targets.front();
  for (index_t i = 0; i < t.weight.size(); ++i)
    CHECK(close(published[t.weight.offset + i], merged[t.weight.offset + i], 0.25, 0.1));
}

TEST_CASE("lora: the gradient of a whole buffer goes to its adapters", "[train]") {
  const config c = smallest_config();
  const auto model = parameter_layout::of<double>(c);
  const auto l = lora_layout::of<double>(model, {.rank = 2, .targets = {".wkv.weight", ".w2.weight"}});
  integers r{8};
  auto weights = numbers(r, 1, model.size), adapters = numbers(r, 1, l.parameters.size),
       dweights = numbers(r, 1, model.size);
  tensor<double, 1> dadapters(l.parameters.size), merged(model.size);
  exec::ref e;
  workspace scratch;
  l.pull_back<exec::ref, double>(e, scratch, dweights, adapters, dadapters);
  // A loss that is linear in the merged weights, with dweights as its gradient.
  const auto loss = [&] {
    l.merge<exec::ref, double>(e, weights, adapters, merged);
    double sum = 0;
    for (const parameter_info& p : model.all)
      for (index_t i = 0; i < p.size(); ++i) sum += merged[p.offset + i] * dweights[p.offset + i];
    return sum;
  };
  for (const parameter_info& p : l.parameters.all)
    check_gradient(p.name, std::span(adapters.data() + p.offset, std::size_t(p.size())),
                   std::span<const double>(dadapters.data() + p.offset, std::size_t(p.size())), loss);
}

TEST_CASE("lora: what cannot be is told", "[train]") {
  const auto model = parameter_layout::of<float>(smallest_config());
  CHECK_THROWS_WITH(lora_layout::of(model, {.rank = 0}), Catch::Matchers::ContainsSubstring("rank"));
  CHECK_THROWS_WITH(lora_layout::of(model, {.targets = {".attn.wq_b.", "k_proj"}}),
                    Catch::Matchers::ContainsSubstring("k_proj"));
  CHECK_THROWS_AS(lora_layout::of(model, {.targets = {}}), contract_violation);
  CHECK_THROWS_AS(lora_layout::of(model, {.targets = {"embed"}}), contract_violation);
}

}  // namespace
}  // namespace dsv4_test
