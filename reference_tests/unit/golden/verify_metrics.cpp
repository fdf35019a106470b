// SPDX-License-Identifier: MIT
// Every metric on numbers that can be computed by hand, and the judgement at the edges of its bounds.
#include "catch.hpp"
#include "dsv4/golden/judge/ledger.hpp"

namespace dsv4 {

using namespace golden;
using Catch::Approx;

TEST_CASE("norms, cosine, ratio, worst coordinate") {
  metrics_accumulator m({2, 2}, 8, {});
  const std::vector<double> b0{3, 0, 0, 4}, a0{3, 0, 0, 5}, b1{1, 1, 1, 1}, a1{1, 1, 0, 1};
  m.add(10, a0, b0);
  m.add(11, a1, b1);
  const error_metrics e = m.result();
  CHECK(e.values == 8);
  CHECK(e.rows == 2);
  CHECK(e.different == 2);
  CHECK(e.max_abs == 1);
  CHECK(e.worst == std::vector<index_t>{10, 1, 1});  // the first of two equal ones
  CHECK(e.worst_test == 5);
  CHECK(e.worst_expected == 4);
  CHECK(e.mean_abs == Approx(2.0 / 8));
  CHECK(e.rel_l2 == Approx(std::sqrt(2.0 / 29)));  // dd = 2, bb = 25 + 4
  CHECK(e.calc_diff == Approx(2.0 / (37 + 29)));   // aa = 34 + 3
  CHECK(e.norm_ratio == Approx(std::sqrt(37.0 / 29)));
  CHECK(e.one_minus_cos == Approx(1 - 32 / std::sqrt(37.0 * 29)));  // ab = 29 + 3
  CHECK(e.nmse_energy == Approx(2.0 / 29));
  CHECK(e.nmse_variance == Approx(2.0 / 8 / (29.0 / 8 - (11.0 / 8) * (11.0 / 8))));
  CHECK(e.mismatch() == Approx(0.25));
  CHECK(e.bias == 0);  // one too large, one too small
  CHECK(m.first_different() == 10);
  const auto axes = m.by_axis({"token", "head", "channel"});
  REQUIRE(axes.size() == 3);
  CHECK(axes[0].first == 10);
  CHECK(axes[0].share == std::vector<double>{0.5, 0.5});
  CHECK(axes[1].share == std::vector<double>{0, 1});
  CHECK(axes[2].share == std::vector<double>{0.5, 0.5});
}

TEST_CASE("scaled ulps: of the stored type, floored at a sixteenth of the row") {
  metrics_accumulator m({4}, 8, {});  // bf16
  // 1 + one ulp of bf16 is 2^-7; near zero the floor holds: rms of the row is 1, 1/16 has the ulp 2^-11.
  const std::vector<double> b{1, 1, 1, 1}, a{1 + 0x1p-7, 1, 1, 1 - 0x1p-7};
  m.add(0, a, b);
  CHECK(m.result().ulp_max == 1);
  CHECK(m.result().ulp_p50 == 0);
  metrics_accumulator zero({4}, 8, {});
  const std::vector<double> c{2, 0, 0, 0}, d{2, 0x1p-11, 0, 0};
  zero.add(0, d, c);
  CHECK(zero.result().ulp_max == 1);
  CHECK(zero.ulp_bins()[0] == 3);
  CHECK(zero.ulp_bins()[4] == 1);  // [1, 2)
  metrics_accumulator f({1}, 24, {});
  f.add(0, std::vector<double>{1 + 0x1p-22}, std::vector<double>{1});
  CHECK(f.result().ulp_max == 2);
}

TEST_CASE("truncation shows as bias, a minus zero as a difference, equal rows as nothing") {
  metrics_accumulator m({100}, 8, {});
  std::vector<double> b(100, 1.0), a(100, 1 - 0x1p-8);
  m.add(0, a, b);
  CHECK(m.result().bias == -1);
  CHECK(m.result().bias_sigma == Approx(-10));
  metrics_accumulator z({1}, 8, {});
  z.add(0, std::vector<double>{-0.0}, std::vector<double>{0.0});
  CHECK(z.result().different == 1);
  CHECK(z.result().max_abs == 0);
  metrics_accumulator e({100}, 8, {});
  e.add_equal(0, b);
  CHECK(e.result().values == 100);
  CHECK(e.result().rel_l2 == 0);
  CHECK(e.result().norm_ratio == 1);
}

TEST_CASE("NaN and infinity must be where they are expected") {
  const double nan = std::nan(""), inf = INFINITY;
  metrics_accumulator m({4}, 8, {});
  m.add(0, std::vector<double>{nan, inf, -inf, 1}, std::vector<double>{nan, inf, -inf, 1});
  CHECK(m.result().masks_differ == 0);
  CHECK(m.result().different == 0);
  m.add(1, std::vector<double>{1, inf, 1, nan}, std::vector<double>{1, -inf, nan, 1});
  CHECK(m.result().masks_differ == 3);
  CHECK(m.result().worst == std::vector<index_t>{1, 1});
  CHECK(m.result().nan_test == 2);
  CHECK(m.result().nan_expected == 2);
}

TEST_CASE("logits: KL both ways, top-1, the change of the next token's loss") {
  // p = (1/2, 1/2), q = (1/4, 3/4).
  const std::vector<double> g{0, 0}, t{0, std::log(3.0)};
  const logits_point p = compare_logits(t, g, 1);
  CHECK(p.kl == Approx(0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3)));
  CHECK(p.reverse_kl == Approx(0.25 * std::log(0.5) + 0.75 * std::log(1.5)));
  CHECK_FALSE(p.top1_equal);
  CHECK(p.golden_margin == 0);
  CHECK(p.delta_nll == Approx(std::log(4.0 / 3) - std::log(2.0)));
  CHECK(p.delta_p == Approx(0.25));
  CHECK(p.js > 0);
  // KL is half the variance of a small error.
  std::vector<double> a(1000), b(1000);
  double mean = 0, square = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = 1e-3 * std::sin(double(i) * 12.9898);
    a[i] = d, mean += d / 1000, square += d * d / 1000;
  }
  CHECK(compare_logits(a, b, -1).kl == Approx((square - mean * mean) / 2).epsilon(0.01));
}

TEST_CASE("choices: sets, order, recall") {
  const std::vector<index_t> a{3, 1, 7}, order{1, 3, 7}, other{3, 1, 8};
  CHECK(compare_choices(a, a).equal);
  CHECK(compare_choices(a, order).same_set);
  CHECK_FALSE(compare_choices(a, order).equal);
  const choice_difference d = compare_choices(other, a);
  CHECK(d.only_test == std::vector<index_t>{8});
  CHECK(d.only_expected == std::vector<index_t>{7});
  CHECK(d.jaccard == Approx(0.5));
  CHECK(d.recall == Approx(2.0 / 3));
}

TEST_CASE("slots are the same whatever the call that numbered them") {
  // Query 5 of window 4: positions 2..5 and entry 0.  In a prefill of 8 tokens, and alone as a decode step.
  const std::vector<double> prefill{2, 3, 4, 5, 8, -1}, decode{2, 3, 0, 1, 4, -1};
  const auto a = canonical_slots(prefill, 0, 8, 5, 4), b = canonical_slots(decode, 5, 1, 5, 4);
  CHECK(a == std::vector<index_t>{2, 3, 4, 5, first_entry_slot});
  CHECK(b == a);
}

TEST_CASE("policies: strict wants bits, faithful a few, noise forgives under faithful alone") {
  tensor_result r;
  r.site = "attn_norm", r.cls = tolerance_class::stored;
  r.m.values = 1000, r.m.different = 10, r.m.ulp_max = 1, r.m.calc_diff = 1e-7, r.m.rel_l2 = 1e-4;
  tolerance_context c;
  c.policy = tolerance_policy::strict;
  judge_values(r, c, 1, nullptr);
  CHECK(r.v == verdict::fail);
  c.policy = tolerance_policy::faithful;
  judge_values(r, c, 1, nullptr);
  CHECK(r.v == verdict::pass);
  r.m.different = 21;  // 2 % of 1000 are 20
  judge_values(r, c, 1, nullptr);
  CHECK(r.v == verdict::fail);
  CHECK(r.why.find("share of other elements") != std::string::npos);
  r.noise = 2e-5;  // 8 times that is 1.6e-4
  judge_values(r, c, 1, nullptr);
  CHECK(r.v == verdict::warn);
  c.policy = tolerance_policy::strict;
  judge_values(r, c, 1, nullptr);
  CHECK(r.v == verdict::fail);
}

TEST_CASE("patterns say where the errors are") {
  culprit_report c;
  c.axes = {"token", "channel"};
  c.by_axis = {{"token", 0, std::vector<double>(32, 1.0 / 32)},
               {"channel", 0, std::vector<double>(128, 0.0)}};
  for (std::size_t i = 64; i < 128; ++i) c.by_axis[1].share[i] = 1.0 / 64;
  for (index_t p = 0; p < 32; ++p) c.by_position.push_back({0, p, p % 4 == 3 ? 0.1 : 0.0, 0});
  const auto found = patterns_of(c, {4, 16});
  REQUIRE(found.size() >= 2);
  CHECK(found[0] == "all errors in channels 64-127 of 128");
  CHECK(found[1] == "only at positions with position % 4 == 3");
  for (index_t p = 0; p < 32; ++p) c.by_position[std::size_t(p)].rel_l2 = p < 8 ? 0.0 : 0.01 * double(p);
  c.by_axis.clear();
  const auto grows = patterns_of(c, {4});
  CHECK(grows == std::vector<std::string>{"position 8 and all later ones are wrong, those before are right"});
}

}  // namespace dsv4
