// SPDX-License-Identifier: MIT
// The distribution of the next token: numbers in brackets are the postconditions of gen/distribution.hpp.
#include <cmath>
#include <dsv4/gen/distribution.hpp>
#include <dsv4/gen/log_probability.hpp>
#include <limits>
#include <numeric>
#include <vector>

#include "catch.hpp"
#include "random_model.hpp"

namespace dsv4_test::gen_distribution {
namespace {
using namespace dsv4;
using dsv4::index_t;
using doubles = std::vector<double>;
constexpr double inf = std::numeric_limits<double>::infinity(),
                 not_a_number = std::numeric_limits<double>::quiet_NaN();

distribution make(const doubles& x, const sampling& s) {
  const auto v = static_cast<index_t>(x.size());
  ranking order(v);
  distribution p(v);
  p.assign(x, s, order);
  return p;
}
doubles values(const distribution& p) {
  doubles r;
  for (std::int32_t i = 0; i < p.size(); ++i) r.push_back(p[i]);
  return r;
}
double difference(const doubles& a, const doubles& b) {
  double worst = std::fabs(double(a.size()) - double(b.size()));
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    worst = std::max(worst, std::fabs(a[i] - b[i]));
  return worst;
}
constexpr double rounding = 1e-15;  // of probabilities: a few ulp of 1

/// Logits in steps of 1/4, so that many are equal; some are minus infinity or NaN.
doubles rough_logits(index_t v, std::uint64_t seed) {
  dsv4_test::integers r{seed};
  doubles x;
  for (index_t i = 0; i < v; ++i) {
    const index_t kind = r.below(12);
    x.push_back(kind == 0 ? -inf : kind == 1 ? not_a_number : static_cast<double>(r.below(24)) / 4);
  }
  return x;
}
/// The definition: sort all ids, cut, normalise.
doubles by_sorting(const doubles& x, const sampling& s) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (x[i] > -inf) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] > x[b]; });
  doubles mass;
  for (const std::size_t i : order) mass.push_back(std::exp((x[i] - x[order[0]]) / s.temperature));
  std::size_t kept = s.top_k > 0 ? std::min(order.size(), std::size_t(s.top_k)) : order.size();
  const double whole = std::accumulate(mass.begin(), mass.begin() + long(kept), 0.0);
  double run = 0;
  for (std::size_t k = 0; k < kept; ++k)
    if ((run += mass[k]) >= s.top_p * whole - 1e-12) kept = k + 1;
  while (mass[kept - 1] < s.min_p) --kept;
  const double sum = std::accumulate(mass.begin(), mass.begin() + long(kept), 0.0);
  doubles p(x.size());
  for (std::size_t k = 0; k < kept; ++k) p[order[k]] = mass[k] / sum;
  return p;
}
}  // namespace

TEST_CASE("(1) a softmax of the numbers among the logits", "[distribution]") {
  const doubles x{0, std::log(2), std::log(5), -inf, not_a_number};
  CHECK(difference(values(make(x, {.temperature = 1})), {1.0 / 8, 2.0 / 8, 5.0 / 8, 0, 0}) < rounding);
  CHECK(difference(values(make(x, {.temperature = 0.5})), {1.0 / 30, 4.0 / 30, 25.0 / 30, 0, 0}) < rounding);
  CHECK(difference(values(make({1, 2}, {.temperature = 1e300})), {0.5, 0.5}) < rounding);
  CHECK(values(make({1, 2, 2}, {.temperature = 1e-300})) == doubles{0, 0.5, 0.5});
  CHECK(values(make({5, inf, 1, inf}, {.temperature = 2})) == doubles{0, 0.5, 0, 0.5});
  CHECK(values(make({-1e308, 1e308}, {.temperature = 1})) == doubles{0, 1});
  const distribution greedy = make({1, 3, 3}, {});
  CHECK((greedy.certain() && greedy.mode() == 1));
  CHECK(values(greedy) == doubles{0, 1, 0});
  for (const double temperature : {0.0, 1.0}) {
    CHECK_THROWS_AS(make({-inf, not_a_number}, {.temperature = temperature}), error);
    CHECK_THROWS_AS(make({}, {.temperature = temperature}), error);
  }
}

TEST_CASE("(2) top_k, top_p and min_p keep the beginning of one order", "[distribution]") {
  const doubles x{std::log(5), 0, std::log(8), std::log(2)};  // 5, 1, 8, 2 of 16
  const auto kept = [&](const sampling& s) { return values(make(x, s)); };
  CHECK(difference(kept({.temperature = 1, .top_k = 2}), {5.0 / 13, 0, 8.0 / 13, 0}) < rounding);
  CHECK(difference(kept({.temperature = 1, .top_p = 0.6}), {5.0 / 13, 0, 8.0 / 13, 0}) < rounding);
  // 8/13 of what top_k left is enough for top_p.
  CHECK(kept({.temperature = 1, .top_p = 0.6, .top_k = 2}) == doubles{0, 0, 1, 0});
  CHECK(difference(kept({.temperature = 1, .min_p = 0.2}), {5.0 / 15, 0, 8.0 / 15, 2.0 / 15}) < rounding);
  CHECK(kept({.temperature = 1, .min_p = 1}) == doubles{0, 0, 1, 0});
  // min_p does not change what top_p measures: 8/16 and 13/16 of all, not of 15/16.
  CHECK(kept({.temperature = 1, .top_p = 0.5, .min_p = 0.2}) == doubles{0, 0, 1, 0});
  CHECK(kept({.temperature = 1, .top_p = 1e-9}) == doubles{0, 0, 1, 0});
  CHECK(kept({.temperature = 1, .top_k = 1}) == doubles{0, 0, 1, 0});
  CHECK(kept({.temperature = 1, .top_k = 9}) == kept({.temperature = 1}));
  // Of equals the lower ids stay.
  CHECK(values(make({1, 1, 1, 1}, {.temperature = 1, .top_k = 2})) == doubles{0.5, 0.5, 0, 0});
  CHECK(values(make({0, 1, 1, 1}, {.temperature = 1, .top_p = 0.4})) == doubles{0, 0.5, 0.5, 0});

  int cut = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    dsv4_test::integers r{seed + 1000};
    const doubles logits = rough_logits(40, seed);
    const double temperatures[] = {0.3, 1, 2.5}, masses[] = {1, 0.999, 0.9, 0.3}, least[] = {0, 0.05, 0.4};
    const sampling s{.temperature = temperatures[r.below(3)],
                     .top_p = masses[r.below(4)],
                     .top_k = r.below(3) * r.below(12),
                     .min_p = least[r.below(3)]};
    INFO("seed " << seed << " temperature " << s.temperature << " top_k " << s.top_k << " top_p " << s.top_p
                 << " min_p " << s.min_p);
    const doubles p = values(make(logits, s)), expected = by_sorting(logits, s);
    CHECK(difference(p, expected) < rounding);
    cut += std::count(p.begin(), p.end(), 0.0) > std::count(logits.begin(), logits.end(), -inf) + 10;
  }
  CHECK(cut > 100);
}

TEST_CASE("(3) a draw gives a token for a part of [0, 1) as long as its probability", "[distribution]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const distribution p = make(rough_logits(30, seed), {.temperature = 1.5, .top_p = 0.95});
    double sum = 0;
    std::int32_t last = -1;
    for (std::int32_t i = 0; i < p.size(); ++i) {
      if (p[i] == 0) continue;
      CHECK(p.draw(sum) == i);
      CHECK(p.draw(sum + p[i] / 2) == i);
      sum += p[i];
      CHECK(p.draw(sum - 1e-9) == i);
      last = i;
    }
    CHECK(p.draw(1 - 0x1p-53) == last);
  }
}

TEST_CASE("(4) subtract leaves what is above the other", "[distribution]") {
  const distribution p = make({0, 0, std::log(2), -inf}, {.temperature = 1});  // 1/4 1/4 1/2 0
  const distribution q = make({std::log(4), 0, std::log(2), std::log(3)}, {.temperature = 1});  // .4 .1 .2 .3
  distribution r = p;
  r.subtract(q);
  CHECK(difference(values(r), {0, 0.15 / 0.45, 0.3 / 0.45, 0}) < rounding);
  // From a point mass, and a point mass from it.
  r = p;
  distribution point(4);
  point.assign(2);
  r.subtract(point);
  CHECK(values(r) == doubles{0.5, 0.5, 0, 0});
  r = point;
  r.subtract(q);
  CHECK(values(r) == values(point));
  // Nothing is left: only rounding can ask for that.
  r = p;
  r.subtract(p);
  CHECK(values(r) == values(p));
}

TEST_CASE("log-probabilities of the raw logits, and the likeliest", "[log_probability]") {
  const std::vector<float> x{0,
                             std::log(2.0F),
                             std::log(5.0F),
                             -std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN(),
                             std::log(2.0F)};
  log_probabilities p(3, 6);
  p.read(view<const float, 1>(x.data(), 6));
  const double float_logs = 1e-7;
  CHECK(std::fabs(p[0] - std::log(1.0 / 10)) < float_logs);  // (1)
  CHECK(std::fabs(p[2] - std::log(5.0 / 10)) < float_logs);
  CHECK((p[3] == -inf && p[4] == -inf));
  CHECK(p.top().size() == 3);  // (2)
  CHECK((p.top()[0].id == 2 && p.top()[1].id == 1 && p.top()[2].id == 5));
  for (const token_probability& t : p.top()) CHECK(t.log_probability == p[t.id]);

  // Far from zero, against long double; more asked for than there are.
  const doubles far{1000, 999, -1000, 1000.5};
  log_probabilities all(100, 4);
  all.read(view<const double, 1>(far.data(), 4));
  CHECK(all.top().size() == 4);
  const long double sum = std::exp(-0.5L) + std::exp(-1.5L) + 1;
  CHECK(std::fabs(all[0] - double(-0.5L - std::log(sum))) < 1e-15);
  CHECK(all[2] < -2000);
  const doubles infinite{inf, 3, inf};
  log_probabilities two(1, 3);
  two.read(view<const double, 1>(infinite.data(), 3));
  CHECK(std::fabs(two[2] - std::log(0.5)) < 1e-15);
  CHECK((two[1] == -inf && two.top()[0].id == 0));
  const doubles none{not_a_number, -inf, -inf};
  CHECK_THROWS_AS(two.read(view<const double, 1>(none.data(), 3)), error);
  CHECK_THROWS_AS(two.read(view<const double, 1>(far.data(), 4)), contract_violation);
}

}  // namespace dsv4_test::gen_distribution
