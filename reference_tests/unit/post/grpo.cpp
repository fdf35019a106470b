// SPDX-License-Identifier: MIT
// GRPO by hand: the traps that implementations fall into, one by one, and the whole loss against finite differences.
#include <limits>

#include "../train/finite_difference.hpp"
#include "catch.hpp"
#include "dsv4/post/advantage.hpp"
#include "dsv4/post/grpo.hpp"
#include "dsv4/post/token_probability.hpp"
#include "operands.hpp"

namespace dsv4_test::post_grpo {
namespace {

using namespace dsv4::post;
constexpr double nan = std::numeric_limits<double>::quiet_NaN(),
                 inf = std::numeric_limits<double>::infinity();

tensor<double, 2> matrix(index_t rows, std::vector<double> x) {
  tensor<double, 2> m(rows, static_cast<index_t>(x.size()) / rows);
  std::copy(x.begin(), x.end(), m.data());
  return m;
}
tensor<std::uint8_t, 2> bits(index_t rows, std::vector<int> x) {
  tensor<std::uint8_t, 2> m(rows, static_cast<index_t>(x.size()) / rows);
  std::copy(x.begin(), x.end(), m.data());
  return m;
}
std::vector<double> advantages_of(std::vector<double> rewards, index_t group, advantage_rule rule = {}) {
  return advantages(matrix(static_cast<index_t>(rewards.size()), rewards), group, rule);
}

TEST_CASE("advantage: the deviation has n - 1, and 1e-4 beside it", "[post]") {
  // sqrt(1/3) = 0.5773502691896258;  0.5 / (0.5773502691896258 + 1e-4)
  const auto a = advantages_of({1, 0, 0, 1}, 4);
  for (const std::size_t n : {0, 3}) CHECK(close(a[n], 0.8658754297607016, 1e-15));
  for (const std::size_t n : {1, 2}) CHECK(close(a[n], -0.8658754297607016, 1e-15));
  // Groups are consecutive; "none" only subtracts; "batch" has one divisor.
  const auto none = advantages_of({1, 3, 10, 14}, 2, {.scale = reward_scale::none});
  CHECK(none == std::vector<double>{-1, 1, -2, 2});
  const auto batch = advantages_of({1, 3, 10, 14}, 2, {.scale = reward_scale::batch});
  CHECK(close(batch[3] / batch[1], 2, 1e-15));
}

TEST_CASE("advantage: equal rewards, answers without a score, a group of one", "[post]") {
  CHECK(advantages_of({0.3, 0.3, 0.3, 0.3}, 4) == std::vector<double>(4, 0.0));  // (2)
  const auto one = advantages_of({1, nan, 0, 5, 6, 7}, 3);
  CHECK(one[1] == 0);  // (1)
  CHECK(close(one[0], -one[2], 1e-15));
  CHECK(one[0] > 0);
  CHECK(one[4] == 0);
  CHECK(advantages_of({nan, nan, 4}, 3) == std::vector<double>(3, 0.0));  // (3)
  CHECK(advantages_of({1, 2, 3}, 1) == std::vector<double>(3, 0.0));
  CHECK(advantages_of({nan, nan}, 2) == std::vector<double>(2, 0.0));
  CHECK(advantages(tensor<double, 2>(0, 1), 4).empty());
}

TEST_CASE("advantage: several functions, some of which do not apply", "[post]") {
  const auto rewards = matrix(2, {1, nan, nan, 2});
  const double weights[] = {2, 3};
  CHECK(total_rewards(rewards, weights) == std::vector<double>{2, 6});
  CHECK(std::isnan(total_rewards(matrix(1, {nan, nan}))[0]));
  // A function that is constant in its group decides nothing once each is standardised.
  const auto a = advantages(matrix(4, {1, 7, 0, 7, 0, 7, 1, 7}), 4, {.each_function_first = true});
  CHECK((a[0] > 0 && a[1] < 0));
  CHECK(close(a[0], -a[1], 1e-12));
}

TEST_CASE("advantage: what cannot be a reward is named", "[post]") {
  CHECK_THROWS_WITH(advantages_of({1, inf}, 2),
                    Catch::Matchers::ContainsSubstring("reward 0 of answer 1 is infinite"));
  CHECK_THROWS_AS(advantages_of({1, 2, 3}, 2), contract_violation);
  CHECK_THROWS_AS(advantages_of({1, 2}, 0), contract_violation);
  const double weights[] = {1, 2};
  CHECK_THROWS_AS(advantages(matrix(2, {1, 2}), 2, {}, weights), contract_violation);
}

TEST_CASE("clip: the sides of the bounds, by the sign of the advantage", "[post]") {
  const clip_bounds b{.low = 0.2, .high = 0.3};
  // A good answer: a ratio above 1.3 is held and has no gradient; one below 0.8 is not.
  CHECK(clipped_loss(1.5, 2.0, b).loss == -2.6);
  CHECK(clipped_loss(1.5, 2.0, b).dratio == 0);
  CHECK(clipped_loss(1.5, 2.0, b).clipped);
  CHECK(clipped_loss(0.5, 2.0, b).loss == -1);
  CHECK(clipped_loss(0.5, 2.0, b).dratio == -2);
  CHECK(!clipped_loss(0.5, 2.0, b).clipped);
  // A bad one: the other way round.
  CHECK(clipped_loss(0.5, -2.0, b).loss == 1.6);
  CHECK(clipped_loss(0.5, -2.0, b).dratio == 0);
  CHECK(clipped_loss(1.5, -2.0, b).loss == 3);
  CHECK(clipped_loss(1.5, -2.0, b).dratio == 2);
  // Inside, both branches are the same and share the gradient: the whole of it.
  CHECK(clipped_loss(1.0, 2.0, b).dratio == -2);
  // Exactly at a bound it still passes.
  CHECK(clipped_loss(1.3, 2.0, b).dratio == -2);
  CHECK(clipped_loss(0.8, -2.0, b).dratio == 2);
}

TEST_CASE("clip: delta holds the first branch only", "[post]") {
  const clip_bounds dual{.delta = 2.0};
  CHECK(clipped_loss(5.0, -1.0, dual).loss == 2);  // without delta: 5
  CHECK(clipped_loss(5.0, -1.0, dual).dratio == 0);
  CHECK(clipped_loss(1.5, -1.0, dual).loss == 1.5);
  CHECK(clipped_loss(5.0, 1.0, dual).loss == -1.2);  // the other bound decides
  // Below 1 + high: c1 = 1.1 and c2 = 1.2 at a ratio of 1.15 ... 1.2, delta does not clamp c2.
  const clip_bounds low{.delta = 1.1};
  CHECK(clipped_loss(1.15, 1.0, low).loss == -1.1);
  CHECK(clipped_loss(1.15, 1.0, low).dratio == 0);
  CHECK(clipped_loss(1.15, -1.0, low).loss == 1.15);
  CHECK(clipped_loss(1.15, -1.0, low).dratio == 1);
}

TEST_CASE("kl: never negative, 0 where equal, and the gradient of its correction", "[post]") {
  CHECK(k3(-2.0, -2.0).value == 0);
  CHECK(k3(-2.0, -2.0).dlp == 0);
  for (const double ref : {-5.0, -1.0, -0.1}) CHECK(k3(-2.0, ref).value > 0);
  CHECK(close(k3(-2.0, -1.0).value, std::exp(1.0) - 2, 1e-15));  // of ref - lp, not of lp - ref
  const auto k = corrected_k3(-2.0, -1.0, 3.0);
  CHECK(close(k.value, 3 * (std::exp(1.0) - 2), 1e-15));
  CHECK(close(k.dratio, std::exp(1.0) - 2, 1e-15));
  CHECK(close(k.dlp, 3 * (1 - std::exp(1.0)), 1e-15));
}

/// Answers of 4 (of 3 tokens at most) and everything a loss may ask for.
struct rollout {
  tensor<double, 3> logits = [] {
    integers r{5};
    return numbers(r, 2, index_t{4}, index_t{3}, index_t{5});
  }();
  tensor<std::int32_t, 2> ids{4, 3};
  tensor<std::uint8_t, 2> written = bits(4, {1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0});
  tensor<std::uint8_t, 2> mask = bits(4, {1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0});
  tensor<double, 2> old, ref, importance, lp{4, 3}, entropy{4, 3}, dlp{4, 3};
  tensor<double, 1> advantage{4};
  bool with_old = true, with_importance = false;

  rollout() {
    integers r{6};
    for (index_t i = 0; i < ids.size(); ++i) ids.data()[i] = static_cast<std::int32_t>(r.below(5));
    forward();
    old = ref = importance = lp;
    for (index_t i = 0; i < old.size(); ++i) {
      old.data()[i] += 0.5 * double(r.unit());
      ref.data()[i] += 0.5 * double(r.unit());
      importance.data()[i] = 1 + 0.5 * double(r.unit());
    }
    const double a[] = {1.5, -0.75, -1.25, 0.5};
    std::copy(a, a + 4, advantage.data());
  }
  void forward() { token_probabilities<double>(logits, {ids, written}, lp, entropy); }
  answer_batch<double> batch() const {
    answer_batch<double> b{.lp = lp, .ref = ref, .entropy = entropy, .advantage = advantage, .mask = mask};
    if (with_old) b.old = old;
    if (with_importance) b.importance = importance;
    return b;
  }
  grpo_report run(const grpo_settings& s) {
    std::fill_n(dlp.data(), dlp.size(), 0.0);
    return grpo_loss<double>(s, batch(), dlp);
  }
};

TEST_CASE("grpo: gradients with respect to the logits against finite differences", "[post]") {
  index_t tested = 0;
  for (const loss_kind kind : {loss_kind::grpo, loss_kind::bnpo, loss_kind::dr_grpo, loss_kind::dapo})
    for (const ratio_level level : {ratio_level::token, ratio_level::sequence})
      for (const bool corrected : {false, true})
        for (const bool extras : {false, true}) {
          rollout r;
          r.with_importance = extras;
          grpo_settings s{.level = level, .beta = 0.3, .corrected_kl = corrected};
          s.clip = {.low = 0.1, .high = 0.15};
          if (extras) s.clip.delta = 1.4, s.off_policy_threshold = 0.05;
          s.aggregate = {.kind = kind, .longest = 3, .items = 7, .batches_per_step = 2};
          r.run(s);
          tensor<double, 3> gradient(4, 3, 5);
          token_probabilities_backward<double>(r.logits, {r.ids, r.written}, r.dlp, gradient);
          check_gradient("logits", std::span(r.logits.data(), std::size_t(r.logits.size())),
                         std::span(gradient.data(), std::size_t(gradient.size())), [&] {
                           r.forward();
                           tensor<double, 2> unused(4, 3);
                           return grpo_loss<double>(s, r.batch(), unused).loss;
                         });
          ++tested;
        }
  CHECK(tested == 32);
}

TEST_CASE("grpo: written by this policy, the ratio is 1 and still has a gradient", "[post]") {
  rollout r;
  r.with_old = false;
  const grpo_report report = r.run({.aggregate = {.kind = loss_kind::bnpo}});
  CHECK(report.ratio == 1);
  for (index_t b = 0; b < 4; ++b)
    for (index_t t = 0; t < 3; ++t) CHECK(close(r.dlp(b, t), r.mask(b, t) ? -r.advantage[b] / 7 : 0, 1e-15));
  // The same as its own log-probabilities given as old.
  rollout same;
  same.old = same.lp;
  CHECK(same.run({.aggregate = {.kind = loss_kind::bnpo}}).loss == report.loss);
  CHECK(std::equal(r.dlp.data(), r.dlp.data() + r.dlp.size(), same.dlp.data()));
}

TEST_CASE("grpo: tokens that do not count are not looked at", "[post]") {
  for (const ratio_level level : {ratio_level::token, ratio_level::sequence}) {
    const grpo_settings s{.level = level,
                          .beta = 0.1,
                          .off_policy_threshold = 0.1,
                          .entropy_share = 0.5,
                          .aggregate = {.kind = loss_kind::grpo}};
    rollout a, b;
    for (index_t i = 0; i < b.old.size(); ++i)
      if (!b.mask.data()[i])
        b.old.data()[i] = b.ref.data()[i] = nan, b.lp.data()[i] = -inf, b.entropy.data()[i] = nan;
    CHECK(a.run(s).loss == b.run(s).loss);
    CHECK(std::equal(a.dlp.data(), a.dlp.data() + a.dlp.size(), b.dlp.data()));
  }
}

TEST_CASE("grpo: a dropped answer pays its KL; A = 0 and the threshold itself stay", "[post]") {
  rollout r;
  const tensor<double, 2> lp = matrix(2, {-1, -2, -1, -2});
  const tensor<std::uint8_t, 2> mask = bits(2, {1, 1, 1, 0});
  const tensor<double, 2> old = matrix(2, {-0.5, -1.5, -0.25, 7});
  CHECK(is_on_policy<double>(-1, lp, old, mask, 0, 0.5));   // mean 0.5 <= 0.5
  CHECK(!is_on_policy<double>(-1, lp, old, mask, 1, 0.5));  // 0.75 over the one token that counts
  CHECK(is_on_policy<double>(0, lp, old, mask, 1, 0.5));
  CHECK(is_on_policy<double>(-1, lp, matrix(2, {nan, nan, nan, nan}), mask, 1, 0));  // NaN counts as 0
  CHECK(is_on_policy<double>(-1, lp, old, bits(2, {0, 0, 0, 0}), 1, 0));             // nothing counts
  // Every bad answer dropped: what is left of them is beta KL.
  grpo_settings s{.beta = 0.3, .corrected_kl = false, .off_policy_threshold = -1e9};
  s.aggregate.kind = loss_kind::bnpo;
  s.aggregate.items = 7;
  const grpo_report report = r.run(s);
  CHECK(report.dropped == 2);
  for (const index_t b : {1, 2})
    for (index_t t = 0; t < 3; ++t)
      if (r.mask(b, t)) CHECK(close(r.dlp(b, t), 0.3 / 7 * (1 - std::exp(r.ref(b, t) - r.lp(b, t))), 1e-14));
}

TEST_CASE("grpo: an answer of which nothing counts is still one of the batch", "[post]") {
  rollout r;  // the last answer is fully masked
  tensor<double, 2> w(4, 3);
  token_weights<double>({.kind = loss_kind::grpo}, r.mask, w);
  CHECK(w(1, 0) == 1.0 / (2 * 4));
  CHECK(w(3, 0) == 0);
  token_weights<double>({.kind = loss_kind::bnpo}, r.mask, w);
  CHECK(w(1, 0) == 1.0 / 7);
  token_weights<double>({.kind = loss_kind::dr_grpo, .longest = 100}, r.mask, w);
  CHECK(w(1, 0) == 1.0 / 400);
  token_weights<double>({.kind = loss_kind::dapo, .items = 57, .batches_per_step = 4, .steps_per_rollout = 2},
                        r.mask, w);
  CHECK(w(1, 0) == 1.0 / (57 * 4 / 2));
  token_weights<double>({.kind = loss_kind::dapo, .items = 0}, r.mask, w);
  CHECK(w(1, 0) == 1);
  // Nothing at all counts: 0, not 0 / 0.
  r.mask = bits(4, std::vector<int>(12, 0));
  for (const loss_kind kind : {loss_kind::grpo, loss_kind::bnpo, loss_kind::dapo})
    CHECK(r.run({.beta = 1, .entropy_share = 0.5, .aggregate = {.kind = kind}}).loss == 0);
}

TEST_CASE("grpo: the entropy mask takes the most uncertain tokens, by interpolation", "[post]") {
  const tensor<double, 2> entropy = matrix(1, {4, 1, 3, 2, 100});
  const tensor<std::uint8_t, 2> mask = bits(1, {1, 1, 1, 1, 0});
  CHECK(entropy_threshold<double>(entropy, mask, 0) == 4);  // nothing but the largest
  CHECK(entropy_threshold<double>(entropy, mask, 1) == 1);
  CHECK(entropy_threshold<double>(entropy, mask, 0.5) == 2.5);
  CHECK(close(entropy_threshold<double>(entropy, mask, 0.37), 1 + 0.63 * 3, 1e-6));
  CHECK_THROWS_AS(entropy_threshold<double>(entropy, mask, 1.5), contract_violation);
  rollout r;
  const grpo_report all = r.run({.entropy_share = 1, .aggregate = {.kind = loss_kind::bnpo}});
  CHECK(all.uncertain == all.tokens);
  // Rank 0.7 * 6 = 4.2: the two above it.
  CHECK(r.run({.entropy_share = 0.3, .aggregate = {.kind = loss_kind::bnpo}}).uncertain == 2);
}

TEST_CASE("grpo: importance weights are ratios with a cap, and 1 where nothing differs", "[post]") {
  const tensor<double, 2> old = matrix(1, {-1, -1, -1}), sampler = matrix(1, {-1, -3, nan});
  const tensor<std::uint8_t, 2> mask = bits(1, {1, 1, 0});
  tensor<double, 2> w(1, 3);
  importance_weights<double>(ratio_level::token, old, sampler, mask, 2, w);
  CHECK((w(0, 0) == 1 && w(0, 1) == 2));
  importance_weights<double>(ratio_level::sequence, old, sampler, mask, 20, w);
  CHECK(close(w(0, 0), std::exp(1.0), 1e-15));
}

TEST_CASE("grpo: what is missing or not a number is told, and no gradient is left behind", "[post]") {
  rollout r;
  const auto told = [&](const grpo_settings& s, const char* part) {
    CHECK_THROWS_WITH(r.run(s), Catch::Matchers::ContainsSubstring(part));
    CHECK(std::all_of(r.dlp.data(), r.dlp.data() + r.dlp.size(), [](double g) { return g == 0; }));
  };
  told({.aggregate = {.kind = loss_kind::dr_grpo}}, "longest");
  r.lp(2, 1) = nan;
  told({}, "token 1 of answer 2");
  r.advantage[1] = nan;
  told({}, "advantage of answer 1");
  rollout without;
  answer_batch<double> b = without.batch();
  b.ref = {}, b.entropy = {};
  CHECK_THROWS_AS(grpo_loss<double>({.beta = 0.1}, b, without.dlp), contract_violation);
  CHECK_THROWS_AS(grpo_loss<double>({.entropy_share = 0.1}, b, without.dlp), contract_violation);
  tensor<double, 2> narrow(4, 2);
  CHECK_THROWS_AS(grpo_loss<double>({}, without.batch(), narrow), contract_violation);
}

}  // namespace
}  // namespace dsv4_test::post_grpo
