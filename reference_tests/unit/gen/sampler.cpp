// SPDX-License-Identifier: MIT
// The sampler: numbers in brackets are the postconditions of gen/sampler.hpp.
#include <array>
#include <cmath>
#include <dsv4/gen/sampler.hpp>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "random_model.hpp"

namespace dsv4_test::gen_sampler {
namespace {
using namespace dsv4;
view<const float, 1> row(const std::vector<float>& v) { return {v.data(), v.size()}; }
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(),
                inf = std::numeric_limits<float>::infinity();

/// How often each token comes in `draws` draws.
std::vector<int> counts(const sampling& s, const std::vector<float>& logits, int draws) {
  sampler choose(s, static_cast<dsv4::index_t>(logits.size()));
  std::vector<int> n(logits.size());
  for (int i = 0; i < draws; ++i) ++n[static_cast<std::size_t>(choose(row(logits)))];
  return n;
}
}  // namespace

TEST_CASE("splitmix64 is the published generator", "[sampler]") {
  CHECK(splitmix64(0, 0) == 0xe220a8397b1dcdaf);
  CHECK(splitmix64(0, 1) == 0x6e789e6aa1b965f4);
  CHECK(splitmix64(1234567, 0) == 6457827717110365317u);
  CHECK(splitmix64(1234567, 4) == 16408922859458223821u);
  for (std::uint64_t i = 0; i < 1000; ++i) CHECK((uniform(7, i) >= 0 && uniform(7, i) < 1));
}

TEST_CASE("(1) greedy takes the largest, the lowest id among equals, and draws nothing", "[sampler]") {
  const auto choose = [](const std::vector<float>& logits) {
    sampler s({}, static_cast<dsv4::index_t>(logits.size()));
    const std::int32_t id = s(row(logits));
    CHECK(s.draws() == 0);
    return id;
  };
  CHECK(choose({1, 3, 2, 3, 0}) == 1);
  CHECK(choose({-inf, -5, not_a_number, -5}) == 1);
  CHECK(choose({0, inf}) == 1);
  CHECK_THROWS_AS(choose({not_a_number, -inf}), error);
}

TEST_CASE("probabilities are those of the softmax", "[sampler]") {
  // exp(ln 1, ln 2, ln 5) at temperature 1, squares at temperature 1/2.
  const std::vector<float> logits{0, std::log(2.0F), std::log(5.0F), -inf, not_a_number};
  const int draws = 20000;
  const auto close = [&](int found, double p) {
    return std::abs(found - draws * p) < 5 * std::sqrt(draws * p * (1 - p));
  };
  auto n = counts({1, 1, 11}, logits, draws);
  CHECK(close(n[0], 1.0 / 8));
  CHECK(close(n[1], 2.0 / 8));
  CHECK(close(n[2], 5.0 / 8));
  CHECK(n[3] + n[4] == 0);
  n = counts({0.5, 1, 12}, logits, draws);
  CHECK(close(n[0], 1.0 / 30));
  CHECK(close(n[2], 25.0 / 30));
}

TEST_CASE("(2) top_p keeps the shortest run that reaches it", "[sampler]") {
  const std::vector<float> logits{0, std::log(2.0F), std::log(5.0F)};  // 1/8, 2/8, 5/8
  auto n = counts({1, 0.5, 1}, logits, 2000);
  CHECK(n == std::vector<int>{0, 0, 2000});
  n = counts({1, 0.8, 1}, logits, 7000);
  CHECK(n[0] == 0);
  CHECK(std::abs(n[1] - 2000) < 200);
  // Equal logits: the lower id is kept.
  n = counts({1, 0.5, 1}, {1, 1, 1, 1}, 1000);
  CHECK(n[0] + n[1] == 1000);
  CHECK((n[0] > 400 && n[1] > 400));
  CHECK(counts({1, 1e-9, 1}, {0, 4, 4}, 10) == std::vector<int>{0, 10, 0});
  // A single candidate, and an infinite logit.
  CHECK(counts({2, 0.9, 1}, {-inf, 3}, 10) == std::vector<int>{0, 10});
  CHECK(counts({2, 1, 1}, {5, inf}, 10) == std::vector<int>{0, 10});
}

TEST_CASE("the seed decides", "[sampler]") {
  const std::vector<float> logits(64, 0.0F);
  const auto draw = [&](std::uint64_t seed, double top_p) {
    sampler choose({1, top_p, seed}, 64);
    std::vector<std::int32_t> r;
    for (int i = 0; i < 50; ++i) r.push_back(choose(row(logits)));
    return r;
  };
  CHECK(draw(1, 1) == draw(1, 1));
  CHECK(draw(1, 1) != draw(2, 1));
  // Uniform over 64 tokens: the id is the high bits of the draw.
  const auto ids = draw(5, 1);
  for (std::size_t i = 0; i < ids.size(); ++i)
    CHECK(ids[i] == static_cast<std::int32_t>(splitmix64(5, i) >> 58));
}

TEST_CASE("sampler refuses impossible settings", "[sampler]") {
  CHECK_THROWS_AS(sampler({-1, 1, 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({inf, 1, 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({not_a_number, 1, 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({1, 0, 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({1, 1.5, 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.top_k = -1}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.min_p = -0.1}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.min_p = 1.1}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.repetition_penalty = 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.repetition_penalty = inf}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.frequency_penalty = not_a_number}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.presence_penalty = -inf}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.penalty_window = -1}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.bias = {{4, 1}}}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.bias = {{-1, 1}}}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.bias = {{0, inf}}}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({.bias = {{0, not_a_number}}}, 4), contract_violation);
  CHECK_NOTHROW(sampler({.bias = {{0, -inf}}}, 4));
  sampler choose({}, 4);
  CHECK_THROWS_AS(choose(row({1, 2, 3})), contract_violation);
}

// ---- processors

namespace {
/// exp(processed logit), up to a common factor: what p says at temperature 1.
std::vector<double> next_of(sampler& s, const std::vector<float>& logits) {
  distribution p(static_cast<dsv4::index_t>(logits.size()));
  s.next(row(logits), p);
  std::vector<double> r;
  for (std::int32_t i = 0; i < p.size(); ++i) r.push_back(p[i]);
  return r;
}
bool proportional(const std::vector<double>& p, const std::vector<double>& logits) {
  double sum = 0;
  for (const double x : logits) sum += std::exp(x);
  for (std::size_t i = 0; i < p.size(); ++i)
    if (std::fabs(p[i] - std::exp(logits[i]) / sum) > 1e-15) return false;
  return p.size() == logits.size();
}
}  // namespace

TEST_CASE("(3) penalties count the remembered ids in their window", "[sampler]") {
  const std::vector<float> logits{2, -2, 1, 0, 0.5F};
  const std::int32_t said[] = {4, 0, 1, 0, 2, 0};
  SECTION("repetition") {
    sampler s({.temperature = 1, .repetition_penalty = 4}, 5);
    CHECK(proportional(next_of(s, logits), {2, -2, 1, 0, 0.5}));
    s.begin(0, said);
    CHECK(proportional(next_of(s, logits), {0.5, -8, 0.25, 0, 0.125}));
  }
  SECTION("frequency and presence") {
    sampler s({.temperature = 1, .frequency_penalty = 0.5, .presence_penalty = 0.25}, 5);
    s.begin(0, said);
    CHECK(proportional(next_of(s, logits), {2 - 1.75, -2 - 0.75, 1 - 0.75, 0, 0.5 - 0.75}));
  }
  SECTION("a window") {
    sampler s({.temperature = 1, .frequency_penalty = 1, .penalty_window = 3}, 5);
    s.begin(0, said);  // … 0 2 0
    CHECK(proportional(next_of(s, logits), {0, -2, 0, 0, 0.5}));
    s.remember(3);  // 2 0 3
    CHECK(proportional(next_of(s, logits), {1, -2, 0, -1, 0.5}));
    s.forget();
    s.forget();  // 1 0 2
    s.forget();  // 0 1 0
    CHECK(proportional(next_of(s, logits), {0, -3, 1, 0, 0.5}));
  }
  SECTION("negative penalties reward") {
    sampler s({.temperature = 1, .repetition_penalty = 0.5, .presence_penalty = -1}, 5);
    s.begin(0, std::span(said).first(2));
    CHECK(proportional(next_of(s, logits), {5, -2, 1, 0, 2}));
  }
}

TEST_CASE("the processors work in their order", "[sampler]") {
  // Forbidden stays forbidden; the penalty scales the model's logit and not the bias; temperature comes after both.
  sampling settings{
      .temperature = 0.5, .repetition_penalty = 2, .bias = {{0, 50}, {1, -3}, {1, 1}, {2, -inf}}};
  settings.constrain = [](std::span<const std::int32_t> ids, std::span<double> logits) {
    CHECK(ids.size() == 2);
    CHECK(logits[1] == 4);
    logits[0] = -inf;
  };
  sampler s(settings, 4);
  const std::int32_t said[] = {1, 3};
  s.begin(0, said);
  CHECK(proportional(next_of(s, {9, 4, 7, 1}), {-inf, 0, -inf, 1}));  // 4/2 - 3 + 1 and 1/2, over 1/2
  // A constraint that leaves nothing is an error, not a token.
  sampler none({.constrain = [](auto, std::span<double> x) { std::fill(x.begin(), x.end(), -inf); }}, 4);
  CHECK_THROWS_AS(none(row({1, 2, 3, 4})), error);
}

TEST_CASE("(3) remember, forget and begin keep the ids that were said", "[sampler]") {
  std::vector<std::int32_t> seen;
  sampling settings{.frequency_penalty = 1, .penalty_window = 4};
  settings.constrain = [&](std::span<const std::int32_t> ids, std::span<double>) {
    seen.assign(ids.begin(), ids.end());
  };
  sampler s(settings, 8, 64);
  const std::vector<float> logits{8, 7, 6, 5, 4, 3, 2, 1};
  const auto ids = [&] {
    next_of(s, logits);
    return seen;
  };
  const std::int32_t first[] = {1, 2, 3}, second[] = {5, 6};
  s.begin(0, first);
  CHECK(ids() == std::vector<std::int32_t>{1, 2, 3});
  CHECK(s(row(logits)) == 0);  // remembered: the next choice counts it
  CHECK(s(row(logits)) == 0);  // 8 - 1 = 7 is as much as token 1 has: 7 - 1 = 6
  CHECK(ids() == std::vector<std::int32_t>{1, 2, 3, 0, 0});
  // The last answer is unread: the sequence holds 4.
  s.begin(4, second);
  CHECK(ids() == std::vector<std::int32_t>{1, 2, 3, 0, 5, 6});
  s.begin(2, second);
  CHECK(ids() == std::vector<std::int32_t>{1, 2, 5, 6});
  CHECK_THROWS_AS(s.begin(5, second), contract_violation);
  CHECK_THROWS_AS(s.remember(8), contract_violation);
  CHECK_THROWS_AS(s.remember(-1), contract_violation);

  // Any walk of remember and forget ends with the counts of the ids alone.
  dsv4_test::integers r{3};
  token_history walked(8, 5, 0);
  for (int i = 0; i < 2000; ++i) {
    if (walked.size() > 0 && r.below(5) < 2)
      walked.pop();
    else
      walked.push(static_cast<std::int32_t>(r.below(8)));
    const auto said = walked.ids();
    const auto window = said.last(std::min<std::size_t>(5, said.size()));
    for (std::int32_t id = 0; id < 8; ++id)
      REQUIRE(walked.count(id) == std::count(window.begin(), window.end(), id));
  }
  // Without penalties nothing is kept, and nothing is asked for.
  sampler plain({}, 8);
  plain.begin(1000, first);
  CHECK(plain.state().ids.empty());
}

TEST_CASE("(4) a restored sampler goes on with the same tokens", "[sampler]") {
  const sampling settings{
      .temperature = 1, .top_p = 0.9, .seed = 5, .repetition_penalty = 1.3, .penalty_window = 6};
  const std::vector<float> logits{1, 2, 3, 2, 1, 2, 3, 2};
  sampler one(settings, 8);
  const std::int32_t prompt[] = {1, 2, 3};
  one.begin(0, prompt);
  for (int i = 0; i < 10; ++i) one(row(logits));
  const sampler_state kept = one.state();
  CHECK(kept.draws == 10);
  CHECK(kept.ids.size() == 13);
  sampler other(settings, 8);
  other.restore(kept);
  for (int i = 0; i < 50; ++i) CHECK(one(row(logits)) == other(row(logits)));
  CHECK_THROWS_AS(other.restore({0, {8}}), contract_violation);
}

}  // namespace dsv4_test::gen_sampler
