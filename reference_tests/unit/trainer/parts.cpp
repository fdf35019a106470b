// SPDX-License-Identifier: MIT
// Initial weights, hash tables, the spike detector, loading, curves.
#include <limits>

#include <dsv4/trainer/anticipatory.hpp>
#include <dsv4/trainer/export.hpp>
#include <dsv4/trainer/initial_weights.hpp>
#include <dsv4/trainer/load.hpp>
#include <dsv4/trainer/loss_curve.hpp>

#include "../io/io_test.hpp"
#include "catch.hpp"
#include "random_model.hpp"

namespace dsv4::trainer {

TEST_CASE("initial weights: their size by kind, the same for a seed, each parameter its own", "[trainer]") {
  const dsv4::config c = dsv4_test::tiny_config();
  const auto layout = dsv4::train::parameter_layout::of<double>(c);
  dsv4::tensor<double, 1> w(layout.size), again(layout.size), other(layout.size);
  const initial_settings s{.std = 0.03, .embedding_std = 0.5, .head_std = 0.1};
  initial_weights(layout, s, 1, w.all());
  initial_weights(layout, s, 1, again.all());
  initial_weights(layout, s, 2, other.all());
  CHECK(std::equal(w.data(), w.data() + w.size(), again.data()));
  for (const auto& p : layout.all) {
    INFO(p.name);
    const double* x = w.data() + p.offset;
    double square = 0;
    for (index_t i = 0; i < p.size(); ++i) square += x[i] * x[i] / double(p.size());
    const auto ends = [&](const char* e) { return p.name.ends_with(e); };
    if (ends("norm.weight"))
      CHECK(square == 1);
    else if (ends("_scale"))
      CHECK(square == Catch::Approx(1e-4));
    else if (ends("_base") || ends(".ape") || ends("attn_sink"))
      CHECK(square == 0);
    else {
      const double std = p.name == "embed.weight"  ? 0.5
                         : p.name == "head.weight" ? 0.1
                         : ends("_fn")             ? 0.02
                                                   : 0.03;
      CHECK(std::sqrt(square) == Catch::Approx(std).epsilon(4 / std::sqrt(double(p.size()))));
      CHECK(x[0] != other.data()[p.offset]);
    }
  }
}

TEST_CASE("hash tables: distinct experts, loads balanced by frequency", "[trainer]") {
  dsv4::config c = dsv4_test::tiny_config();
  c.vocab_size = 2000;
  c.n_routed_experts = 8;
  c.num_experts_per_tok = 2;
  // Zipf, and a tail that never occurs.
  std::vector<index_t> counts(2000);
  for (std::size_t i = 0; i < 1500; ++i) counts[(i * 7) % 2000] = static_cast<index_t>(100000 / (i + 1));
  const auto table = balanced_table(c, counts, 1, 0);
  std::vector<double> load(8), ids(8);
  double all = 0;
  for (index_t v = 0; v < c.vocab_size; ++v) {
    CHECK(table(v, 0) != table(v, 1));
    for (index_t k = 0; k < 2; ++k) {
      REQUIRE((table(v, k) >= 0 && table(v, k) < 8));
      load[std::size_t(table(v, k))] += double(counts[std::size_t(v)]);
      ids[std::size_t(table(v, k))] += 1;
      all += double(counts[std::size_t(v)]);
    }
  }
  CHECK(*std::max_element(load.begin(), load.end()) * 8 / all < 1.01);
  CHECK(*std::max_element(ids.begin(), ids.end()) < 2 * 2000 * 2 / 8.0);
  // Another layer, other experts together.
  const auto next = balanced_table(c, counts, 1, 1);
  CHECK(!std::equal(table.data(), table.data() + table.size(), next.data()));
}

TEST_CASE("the detector: mean and deviation as they were fed, quiet at first", "[trainer]") {
  anticipatory_settings s;
  s.memory = 10;
  s.quiet = 20;
  s.spike = 4;
  spike_detector d;
  const dsv4::trainer::counter_random r(1, "loss");
  for (index_t i = 0; i < 200; ++i) {
    const double loss = 3 + 0.1 * r.normal(i);
    if (i < 20) CHECK(!d.is_spike(50, s));
    d.remember(loss, s);
  }
  CHECK(d.mean == Catch::Approx(3).margin(0.1));
  CHECK(std::sqrt(d.variance) == Catch::Approx(0.1).margin(0.06));
  CHECK(d.is_spike(4, s));
  CHECK(!d.is_spike(3, s));
  CHECK(!d.is_spike(0, s));
  CHECK(d.is_spike(std::numeric_limits<double>::quiet_NaN(), s));
  s.spike = 0;
  CHECK(!d.is_spike(4, s));
}

TEST_CASE("a float checkpoint loads to the same parameters, and a quantised one to what it stands for",
          "[trainer]") {
  const dsv4::config c = dsv4_test::tiny_config();
  const auto layout = dsv4::train::parameter_layout::of<float>(c);
  dsv4::tensor<float, 1> w(layout.size), back(layout.size), quantised(layout.size);
  initial_weights(layout, {}, 1, w.all());
  const std::vector<index_t> counts(std::size_t(c.vocab_size), 1);
  auto routing = initial_routing(c, counts, 1);
  for (auto& bias : routing.bias)
    for (index_t e = 0; e < bias.size(); ++e) bias(e) = 0.5f * static_cast<float>(e);
  const temporary_directory folder;
  write_float(folder / "float", c, layout, w, routing);
  write_official(folder / "official", c, layout, w, routing);
  const auto file = dsv4::io::checkpoint::open(folder / "float");
  load_parameters(file, back.all());
  CHECK(std::equal(w.data(), w.data() + w.size(), back.data()));
  const auto tables = load_routing(trained_config(file), file.weights());
  for (std::size_t l = 0; l < routing.bias.size(); ++l) {
    CHECK(std::equal(tables.bias[l].all().begin(), tables.bias[l].all().end(), routing.bias[l].all().begin(),
                     routing.bias[l].all().end()));
    CHECK(std::equal(tables.table[l].all().begin(), tables.table[l].all().end(),
                     routing.table[l].all().begin(), routing.table[l].all().end()));
  }
  load_parameters(dsv4::io::checkpoint::open(folder / "official"), back.all());
  dsv4::train::fake_quantise<float>(layout, std::as_const(w).all(), quantised.all());
  CHECK(std::equal(quantised.data(), quantised.data() + w.size(), back.data()));
}

TEST_CASE("curves: axes, both losses, names escaped", "[trainer]") {
  loss_curve a{"run <1>", {}, {}}, b{"other", {}, {}};
  for (int i = 1; i <= 5000; ++i) {
    a.train.emplace_back(i, 8.0 / std::sqrt(i) + 2);
    if (i % 500 == 0) a.held_out.emplace_back(i, 8.0 / std::sqrt(i) + 2.1);
  }
  b.train = {{1, 9}, {2, std::numeric_limits<double>::quiet_NaN()}, {3, 8}};
  const std::string svg = draw({a, b}, "two & more");
  CHECK(svg.starts_with("<svg"));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(svg.find("run &lt;1&gt; training") != svg.npos);
  CHECK(svg.find("two &amp; more") != svg.npos);
  CHECK(svg.find("nan") == svg.npos);
  CHECK(svg.find(">5000</text>") != svg.npos);
  CHECK(svg.size() < 200000);
  CHECK(draw({}).ends_with("</svg>\n"));
}

}  // namespace dsv4::trainer
