// SPDX-License-Identifier: MIT
// The whole network by the specification in double: against finite differences, against the inference engine, and
// what must not depend on how a step is made.
#include <set>

#include "dsv4/train/model.hpp"
#include "finite_difference.hpp"
#include "model_run.hpp"

namespace dsv4_test::train_network {
namespace {

using T = double;
using network = train::network<T, exec::ref>;
exec::ref e;

/// A hash layer and every kind; the MTP block is window-only.
config whole(std::vector<index_t> ratios = {0, 4, 6, 4, 0}) {
  config c = smallest_config(std::move(ratios));
  c.num_hash_layers = 1;
  return c;
}
/// Lengths with entries to choose from (17: 4 of CSA), of exactly a block, shorter than one.
const std::vector<index_t> lengths{5, 17, 1, 4};

struct step {
  trained_model<> m;
  network net;
  train::batch b;
  train::objective want;
  train::route_choice routes;  // of the first run: a difference may not step across a choice

  explicit step(const config& c, bool recompute = true)
      : m(c, 21), net(c, recompute), b(packed(lengths, c.vocab_size, 22)) {}
  train::report gradients(const train::route_choice* forced = nullptr) {
    m.forget();
    const auto g = m.g();
    return net.run(e, m.w(), m.tables, b, want, &g, forced);
  }
  /// `learn`: the terms that are found on the way back are wanted too.
  train::report losses(bool learn = false) {
    const auto g = m.g();
    const train::report r = net.run(e, m.w(), m.tables, b, want, learn ? &g : nullptr);
    if (routes.empty()) routes = r.routes;
    for (std::size_t l = 0; l < routes.size(); ++l)
      if (!std::equal(routes[l].data(), routes[l].data() + routes[l].size(), r.routes[l].data()))
        throw std::runtime_error("a route changed");
    return r;
  }
};

TEST_CASE("network: next token and MTP, all layer kinds, against differences", "[train]") {
  for (const bool dense : {false, true}) {
    step s(whole());
    s.want.mtp_weight = 0.3;
    s.want.balance_weight = 0;
    s.want.index = train::index_stage::off;
    s.want.dense_attention = dense;
    const train::report r = s.gradients();
    CHECK(r.tokens == 23);
    CHECK(r.mtp_tokens == 3 + 15 + 0 + 2);
    const auto loss = [&] {
      const train::report now = s.losses();
      return now.loss + 0.3 * now.mtp_loss;
    };
    CHECK(loss() == r.loss + 0.3 * r.mtp_loss);
    // An expert that no token came to has a gradient of exact zeros, the indexer too: a choice has none.
    std::set<std::string> untouched{"indexer"};
    for (index_t l = 0; l < s.m.c.num_hidden_layers + 1; ++l)
      for (index_t i = 0; i < s.m.c.n_routed_experts; ++i)
        if (r.load[std::size_t(l)][std::size_t(i)] == 0)
          untouched.insert((l < s.m.c.num_hidden_layers ? "layers." + std::to_string(l) : "mtp.0") +
                           ".ffn.experts." + std::to_string(i) + ".");
    for (const std::string& name : untouched) s.m.check_untouched(name);
    const trained_model<> found = s.m;
    for (const train::parameter_info& p : found.layout.all) {
      if (std::any_of(untouched.begin(), untouched.end(),
                      [&](const std::string& name) { return p.name.find(name) != p.name.npos; }))
        continue;
      // The wide ones along one direction; element by element where a block is differentiated (modules.cpp, attention.cpp).
      if (dense && p.name.find("layers.1") == p.name.npos) continue;
      check_direction(p.name, s.m.values(p), found.added(p), loss);
    }
  }
}

TEST_CASE("network: the balance loss", "[train]") {
  config c = whole({0, 4, 0, 0});
  c.num_nextn_predict_layers = 0;  // a report's balance is that of the layers
  step s(c);
  s.want.balance_weight = 2;
  s.want.index = train::index_stage::off;
  s.gradients();
  const trained_model<> found = s.m;
  const auto loss = [&] {
    const train::report r = s.losses(true);
    return r.loss + 2 * r.balance * double(c.num_hidden_layers - 1);  // a mean over the learned layers
  };
  for (const train::parameter_info& p : found.layout.all)
    if (p.name.find("ffn.gate") != p.name.npos || p.name.find("hc_ffn") != p.name.npos ||
        p.name == "embed.weight")
      check_direction(p.name, s.m.values(p), found.added(p), loss);
}

TEST_CASE("network: the MTP block is balanced too", "[train]") {
  step s(whole());
  s.want.index = train::index_stage::off;
  std::vector<std::vector<double>> gate;  // [weight of the balance loss]
  for (const double weight : {0, 1, 2}) {
    s.want.balance_weight = weight;
    s.gradients();
    gate.push_back(s.m.added(*s.m.layout.find("mtp.0.ffn.gate.weight")));
  }
  double largest = 0;
  for (std::size_t i = 0; i < gate[0].size(); ++i) {
    largest = std::max(largest, std::fabs(gate[1][i] - gate[0][i]));
    CHECK(std::fabs(gate[2][i] - 2 * gate[1][i] + gate[0][i]) < 1e-13);
  }
  CHECK(largest > 1e-3);
}

TEST_CASE("network: the indexer's objective, warm-up and sparse", "[train]") {
  for (const train::index_stage stage : {train::index_stage::dense, train::index_stage::sparse}) {
    step s(whole());
    s.want.index = stage;
    s.want.index_weight = 0.7;
    s.want.balance_weight = 0;
    s.gradients();
    const trained_model<> found = s.m;
    const auto loss = [&] { return 0.7 * 2 * s.losses(true).index_kl; };  // a mean over the two CSA layers
    for (const train::parameter_info& p : found.layout.all)
      if (p.name.find("indexer") != p.name.npos) check_direction(p.name, s.m.values(p), found.added(p), loss);
    // Everything else learns as without it.
    s.want.index = train::index_stage::off;
    s.want.dense_attention = stage == train::index_stage::dense;
    s.gradients();
    for (const train::parameter_info& p : found.layout.all)
      if (p.name.find("indexer") == p.name.npos) CHECK(found.added(p) == s.m.added(p));
  }
}

TEST_CASE("network: the loss is the inference engine's, MTP too", "[train]") {
  config c = tiny_config();  // 60 tokens: the window, 15 CSA entries of which 4 are read, 3 HCA entries
  const random_model model(c, all_f32, 23);
  trained_model<> m(model);
  const auto ids = random_ids(60, c.vocab_size, 24);
  train::network<T, exec::ref> net(c);
  const train::report r = net.run(e, m.w(), m.tables, train::batch::of(ids), {}, nullptr);

  using engine = transformer<float32<double>, exec::ref>;
  engine inference(c, model.weights);
  auto sequence = inference.new_sequence(60);
  tensor<double, 2> logits(60, c.vocab_size), mtp(59, c.vocab_size);
  tensor<double, 3> streams(60, c.hc_mult, c.hidden_size);
  const engine::input in{&sequence, ids};
  inference.forward(std::span(&in, 1), {logits, {}, streams});
  const engine::mtp_input_rows pairs{&sequence, std::span(ids).subspan(1), streams.all().rows(0, 59)};
  inference.forward_mtp(std::span(&pairs, 1), {mtp, {}});
  const auto mean = [&](const tensor<double, 2>& z, index_t n, index_t ahead) {
    double sum = 0;
    for (index_t t = 0; t < n; ++t) {
      double denominator = 0;
      for (const double v : z[t]) denominator += std::exp(v);
      sum += std::log(denominator) - z(t, ids[std::size_t(t + ahead)]);
    }
    return sum / double(n);
  };
  CHECK(std::fabs(r.loss - mean(logits, 59, 1)) < 1e-12);
  CHECK(std::fabs(r.mtp_loss - mean(mtp, 58, 2)) < 1e-12);
  CHECK((r.tokens == 59 && r.mtp_tokens == 58));
  CHECK(r.loss > 1);
  CHECK(r.mtp_loss != r.loss);
}

/// |a - b| relative to the largest.
double apart(const trained_model<>& a, const std::vector<double>& expected) {
  double worst = 0, largest = 0;
  for (const train::parameter_info& p : a.layout.all)
    for (index_t i = p.offset; i < p.offset + p.size(); ++i) {
      worst = std::max(worst, std::fabs(a.gradients[i] - before - expected[std::size_t(i)]));
      largest = std::max(largest, std::fabs(expected[std::size_t(i)]));
    }
  return worst / largest;
}
std::vector<double> added(const trained_model<>& m) {
  std::vector<double> g(m.gradients.data(), m.gradients.data() + m.gradients.size());
  for (double& x : g) x -= before;
  return g;
}

TEST_CASE("network: packed samples do not see each other", "[train]") {
  // Of one length: every mean of the packed batch is the mean of the two.
  step s(whole());
  s.want.balance_weight = 0.1;
  for (const std::vector<index_t>& both : {std::vector<index_t>{17, 17}, std::vector<index_t>{9, 14}}) {
    const bool equal = both[0] == both[1];
    if (!equal) s.want.balance_weight = s.want.mtp_weight = 0, s.want.index = train::index_stage::off;
    const train::batch all = packed(both, s.m.c.vocab_size, 25);
    std::vector<double> expected(std::size_t(s.m.gradients.size()), 0.0);
    double loss = 0, mtp_loss = 0, balance = 0, kl = 0;
    for (index_t i = 0; i < 2; ++i) {
      const auto begin = std::size_t(all.begin(i)), end = std::size_t(all.end(i));
      s.b =
          train::batch::of({all.ids.begin() + std::ptrdiff_t(begin), all.ids.begin() + std::ptrdiff_t(end)});
      const train::report r = s.gradients();
      const double share = double(r.tokens) / double(both[0] + both[1] - 2);
      const auto g = added(s.m);
      for (std::size_t j = 0; j < g.size(); ++j) expected[j] += share * g[j];
      loss += share * r.loss, mtp_loss += share * r.mtp_loss, balance += share * r.balance,
          kl += share * r.index_kl;
    }
    s.b = all;
    const train::report r = s.gradients();
    CHECK(apart(s.m, expected) < 1e-12);
    CHECK(std::fabs(r.loss - loss) < 1e-12);
    if (!equal) continue;
    CHECK(std::fabs(r.mtp_loss - mtp_loss) < 1e-12);
    CHECK(std::fabs(r.balance - balance) < 1e-12);
    CHECK(std::fabs(r.index_kl - kl) < 1e-12);
    CHECK(r.index_kl > 0);
  }
}

TEST_CASE("network: recomputing a block, and forcing its routes, gives the same bits", "[train]") {
  step s(whole());
  s.want.balance_weight = 0.1;
  const train::report r = s.gradients();
  const tensor<T, 1> expected = s.m.gradients;
  const auto same = [&](step& other, const train::report& found) {
    CHECK(std::equal(expected.data(), expected.data() + expected.size(), other.m.gradients.data()));
    CHECK((found.loss == r.loss && found.mtp_loss == r.mtp_loss && found.balance == r.balance &&
           found.index_kl == r.index_kl));
    CHECK(found.load == r.load);
  };
  step kept(whole(), false);
  kept.want = s.want;
  same(kept, kept.gradients());
  same(kept, kept.gradients(&r.routes));
  same(s, s.gradients(&r.routes));
  // The routes are what decides: with another bias they are not the gate's own.
  for (auto& bias : s.m.tables.bias)
    for (index_t i = 0; i < bias.size(); ++i) bias[i] = i == 0 ? 100.0f : 0.0f;
  same(s, s.gradients(&r.routes));
  CHECK(s.gradients().load[1][0] == s.b.tokens());

  CHECK(r.routes.size() == 5);
  for (std::size_t l = 0; l < 5; ++l) {
    index_t sum = 0;
    for (const index_t n : r.load[l]) sum += n;
    CHECK(sum == s.b.tokens() * s.m.c.num_experts_per_tok);
  }
  // A hash layer follows its table.
  for (index_t t = 0; t < s.b.tokens(); ++t)
    for (index_t j = 0; j < 2; ++j)
      CHECK(r.routes[0](t, j) == s.m.tables.table[0](s.b.ids[std::size_t(t)], j));
}

TEST_CASE("network: a batch of longer samples after one of shorter", "[train]") {
  step used(whole()), fresh(whole());
  const train::batch longer = used.b;
  used.b = packed({3, 2}, used.m.c.vocab_size, 23);
  used.gradients();
  used.b = longer;
  const train::report r = used.gradients(), expected = fresh.gradients();
  CHECK((r.loss == expected.loss && r.mtp_loss == expected.mtp_loss));
  CHECK(std::equal(fresh.m.gradients.data(), fresh.m.gradients.data() + fresh.m.gradients.size(),
                   used.m.gradients.data()));
}

TEST_CASE("network: gradients are added to what is there", "[train]") {
  step s(whole());
  const train::report first = s.gradients();
  std::vector<double> twice = added(s.m);
  for (double& x : twice) x *= 2;
  const auto g = s.m.g();
  const train::report second = s.net.run(e, s.m.w(), s.m.tables, s.b, s.want, &g);
  CHECK(apart(s.m, twice) < 1e-12);
  CHECK(second.loss == first.loss);
}

TEST_CASE("network: tokens without a target, and a batch that has none", "[train]") {
  step s(whole());
  s.want.balance_weight = 0;
  s.want.index = train::index_stage::off;
  s.b.targets.assign(s.b.targets.size(), -1);
  const train::report none = s.gradients();
  CHECK((none.loss == 0 && none.mtp_loss == 0 && none.tokens == 0));
  s.m.check_untouched("");
  s.b.targets[2] = 5;
  const train::report one = s.gradients();
  CHECK((one.tokens == 1 && one.mtp_tokens == 1 && one.loss > 0 && one.mtp_loss > 0));
  // Nothing comes from tokens of other samples, or after it: their embedding is untouched.
  std::set<std::int32_t> seen(s.b.ids.begin(), s.b.ids.begin() + 3);
  for (index_t id = 0; id < s.m.c.vocab_size; ++id) {
    bool touched = false;
    for (index_t d = 0; d < s.m.c.hidden_size; ++d) touched |= s.m.g().embed(id, d) != before;
    CHECK(touched == seen.contains(std::int32_t(id)));
  }
}

TEST_CASE("network: what it refuses", "[train]") {
  step s(whole());
  const auto run = [&] { s.net.run(e, s.m.w(), s.m.tables, s.b, s.want, nullptr); };
  const train::batch good = s.b;
  const auto refuses = [&](auto change) {
    s.b = good;
    change(s.b);
    CHECK_THROWS_AS(run(), contract_violation);
  };
  refuses([](train::batch& b) { b = {}; });
  refuses([](train::batch& b) { b.targets.pop_back(); });
  refuses([](train::batch& b) { b.begins = {0, 5, 5, b.tokens()}; });
  refuses([](train::batch& b) { b.begins = {0, 5}; });
  refuses([](train::batch& b) { b.begins = {1, b.tokens()}; });
  refuses([](train::batch& b) { b.ids[3] = 13; });
  refuses([](train::batch& b) { b.ids[3] = -1; });
  refuses([](train::batch& b) { b.targets[3] = 13; });
  refuses([](train::batch& b) { b.targets[3] = -2; });
  s.b = good;
  // Routes that are not the batch's, tables that are not the model's, experts that there are not.
  const train::route_choice routes = s.net.run(e, s.m.w(), s.m.tables, s.b, s.want, nullptr).routes;
  const auto forced = [&](auto change) {
    train::route_choice other = routes;
    change(other);
    CHECK_THROWS_AS(s.net.run(e, s.m.w(), s.m.tables, s.b, s.want, nullptr, &other), contract_violation);
  };
  forced([](train::route_choice& r) { r.pop_back(); });
  forced([](train::route_choice& r) { r[1] = tensor<std::int32_t, 2>(r[1].extent(0) - 1, r[1].extent(1)); });
  forced([](train::route_choice& r) { r[1] = tensor<std::int32_t, 2>(r[1].extent(0), r[1].extent(1) - 1); });
  forced([&](train::route_choice& r) { r[4](2, 1) = std::int32_t(s.m.c.n_routed_experts); });
  forced([](train::route_choice& r) { r[0](0, 0) = -1; });
  const train::routing_tables tables = s.m.tables;
  const auto table = [&](auto change) {
    refuses([&](train::batch&) { change(s.m.tables.table[0]); });
    s.m.tables = tables;
  };
  table([&](tensor<std::int32_t, 2>& t) { t(3, 1) = std::int32_t(s.m.c.n_routed_experts); });
  table([](tensor<std::int32_t, 2>& t) { t(3, 1) = -1; });
  table([](tensor<std::int32_t, 2>& t) { t = tensor<std::int32_t, 2>(t.extent(0) - 1, t.extent(1)); });
  table([](tensor<std::int32_t, 2>& t) { t = tensor<std::int32_t, 2>(t.extent(0), t.extent(1) + 1); });
  refuses([&](train::batch&) { s.m.tables.bias.pop_back(); });
  config c = whole();
  c.num_nextn_predict_layers = 2;
  CHECK_THROWS_AS(network(c), unsupported);
}

}  // namespace
}  // namespace dsv4_test::train_network
