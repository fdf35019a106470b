// SPDX-License-Identifier: MIT
// The sampler: numbers in brackets are the postconditions of gen/sampler.hpp.
#include <array>
#include <cmath>
#include <dsv4/gen/sampler.hpp>
#include <limits>
#include <vector>

#include "catch.hpp"

namespace {
using namespace dsv4;
view<const float, 1> row(const std::vector<float>& v) { return {v.data(), v.size()}; }
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();

/// How often each token comes in `draws` draws.
std::vector<int> counts(const sampling& s, const std::vector<float>& logits, int draws) {
  sampler choose(s, static_cast<dsv4::index>(logits.size()));
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
  sampler choose({}, 5);
  CHECK(choose(row({1, 3, 2, 3, 0})) == 1);
  CHECK(choose(row({-inf, -5, not_a_number, -5})) == 1);
  CHECK(choose(row({0, inf})) == 1);
  CHECK(choose.draws() == 0);
  CHECK_THROWS_AS(choose(row({not_a_number, -inf})), error);
}

TEST_CASE("probabilities are those of the softmax", "[sampler]") {
  // exp(ln 1, ln 2, ln 5) at temperature 1, squares at temperature 1/2.
  const std::vector<float> logits{0, std::log(2.0F), std::log(5.0F), -inf, not_a_number};
  const int draws = 20000;
  const auto close = [&](int found, double p) { return std::abs(found - draws * p) < 5 * std::sqrt(draws * p * (1 - p)); };
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
  for (std::size_t i = 0; i < ids.size(); ++i) CHECK(ids[i] == static_cast<std::int32_t>(splitmix64(5, i) >> 58));
}

TEST_CASE("sampler refuses impossible settings", "[sampler]") {
  CHECK_THROWS_AS(sampler({-1, 1, 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({inf, 1, 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({not_a_number, 1, 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({1, 0, 0}, 4), contract_violation);
  CHECK_THROWS_AS(sampler({1, 1.5, 0}, 4), contract_violation);
}
