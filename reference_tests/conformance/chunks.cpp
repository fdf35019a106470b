// SPDX-License-Identifier: MIT
// However tokens are split into calls, the bits of every logit are the same: the published window and HCA
// ratio around their boundaries, and every point of the position ladder (docs/verification.md, rule 4).
#include <set>

#include "catch.hpp"
#include "executors.hpp"
#include "model_run.hpp"

namespace dsv4_test {
namespace {

/// {1, 2, 3, r-1 .. 2r+1, W-1 .. 2W+1, k r - 1 .. k r + r, multiples of the HCA ratio +- 1}, up to `longest`.
std::set<index_t> ladder(const config& c, index_t longest) {
  const index_t r = csa_ratio, w = c.sliding_window, k = c.index_topk;
  std::set<index_t> points{1, 2, 3, r - 1, r, r + 1, 2 * r - 1, 2 * r, 2 * r + 1, w - 1, w, w + 1, 2 * w + 1};
  for (index_t p = k * r - 1; p <= k * r + r; ++p) points.insert(p);
  for (const index_t ratio : c.compress_ratios)
    if (kind_of_ratio(ratio) == attention_kind::hca)
      for (index_t m = ratio; m <= longest + 1; m += ratio) points.insert({m - 1, m, m + 1});
  points.erase(0);
  while (!points.empty() && *points.rbegin() > longest) points.erase(std::prev(points.end()));
  return points;
}
std::vector<index_t> random_chunks(index_t tokens, index_t longest, std::uint64_t seed) {
  integers r{seed};
  std::vector<index_t> chunks;
  for (index_t n = 0; n < tokens; n += chunks.back()) chunks.push_back(1 + r.below(longest));
  return chunks;
}

/// The whole ladder on one model: prefill(n), n single tokens, and every split of the longest run.
template <numerics_policy P, execution E>
void climb(const random_model& model, index_t longest) {
  runner<P, E> run(model);
  const auto ids = random_ids(longest, run.c().vocab_size, 7);
  const std::span<const std::int32_t> all(ids);
  const auto single = run.fresh(all, {1});
  CHECK(same(run.fresh(all), single));
  for (const index_t n : ladder(run.c(), longest)) {
    INFO("at " << n << " tokens");
    CHECK(first_difference(run.fresh(all.first(std::size_t(n))), single) == n);
    if (n == longest) continue;
    CHECK(same(run.fresh(all, {n, 1, longest}), single));
  }
}

}  // namespace

TEST_CASE("the position ladder crosses every boundary", "[chunks]") {
  config c = tiny_config();
  const auto points = ladder(c, 50);
  CHECK(points == std::set<index_t>{1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 18, 19, 20, 31, 32, 33, 47, 48, 49});
}

TEMPLATE_TEST_CASE("position ladder, official", "[chunks]", DSV4_TEST_EXECUTORS) {
  climb<official, TestType>(random_model(tiny_config()), 50);
}
TEMPLATE_TEST_CASE("position ladder, float32", "[chunks]", DSV4_TEST_EXECUTORS) {
  climb<float32<float>, TestType>(random_model(tiny_config()), 50);
}
TEMPLATE_TEST_CASE("position ladder: window of one, and a window longer than the run", "[chunks]",
                   DSV4_TEST_EXECUTORS) {
  climb<official, TestType>(random_model(tiny_config({4, 16, 4}, 1)), 36);
  climb<official, TestType>(random_model(tiny_config({4, 16, 0}, 64)), 36);
}
TEMPLATE_TEST_CASE("position ladder: window and HCA block that are multiples of nothing", "[chunks]",
                   DSV4_TEST_EXECUTORS) {
  climb<official, TestType>(random_model(tiny_config({7, 4, 5}, 11)), 36);
}
TEMPLATE_TEST_CASE("position ladder in every stored format", "[chunks]", DSV4_TEST_EXECUTORS) {
  const formats mixed{stored_as::fp4, stored_as::fp8, stored_as::fp8};
  for (const formats& f : {base, all_bf16, all_f32, mixed}) {
    climb<official, TestType>(random_model(tiny_config({4, 0, 16}), f, 3), 20);
    climb<float32<float>, TestType>(random_model(tiny_config({4, 0, 16}), f, 3), 20);
  }
}

TEMPLATE_TEST_CASE("a call longer than a pass has the same bits", "[chunks]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  const auto ids = random_ids(40, model.c.vocab_size, 8);
  const auto whole = runner<official, TestType>(model).fresh(ids);
  for (const index_t pass : {1, 3, 4, 7, 16, 39, 40}) {
    INFO("tokens_per_pass " << pass);
    runner<official, TestType> run(model, {}, pass);
    CHECK(same(run.fresh(ids), whole));
    // A batch whose sequences begin and end inside passes; last_logits come with each one's last pass.
    auto a = run.m.new_sequence(40), b = run.m.new_sequence(40), d = run.m.new_sequence(40);
    const std::span<const std::int32_t> all(ids);
    run.forward(d, all.first(18));
    using input = typename runner<official, TestType>::model::input;
    const input batch[] = {{&a, all.first(13)}, {&b, all}, {&d, all.subspan(18, 5)}};
    tensor<wide_t<TestType>, 2> logits(58, model.c.vocab_size), last(3, model.c.vocab_size);
    run.m.forward(batch, {logits, last});
    const auto rows = run.finite(logits), ends = run.finite(last);
    CHECK(same(rows.part(0, 13), whole.part(0, 13)));
    CHECK(same(rows.part(13, 53), whole));
    CHECK(same(rows.part(53, 58), whole.part(18, 23)));
    CHECK(same(ends.part(0, 1), whole.part(12, 13)));
    CHECK(same(ends.part(1, 2), whole.part(39, 40)));
    CHECK(same(ends.part(2, 3), whole.part(22, 23)));
  }
}

TEMPLATE_TEST_CASE("chunk invariance with the published window and HCA ratio", "[chunks]",
                   DSV4_TEST_EXECUTORS) {
  config c = tiny_config({0, 4, 128, 4}, 128);
  c.index_topk = 16;
  const index_t n = 261;
  const random_model model(c);
  runner<official, TestType> run(model);
  const auto ids = random_ids(n, c.vocab_size, 11);
  const auto single = run.fresh(ids, {1});
  CHECK(same(run.fresh(ids), single));
  for (const index_t at : {3, 4, 5, 127, 128, 129, 255, 256, 257}) {
    INFO("split at " << at);
    CHECK(same(run.fresh(ids, {at, n - at}), single));
    CHECK(first_difference(run.fresh(std::span(ids).first(std::size_t(at))), single) == at);
  }
  CHECK(same(run.fresh(ids, {5, 1, 9, 3, 2, 130, 1, 1, 64}), single));
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    INFO("random chunks of seed " << seed);
    CHECK(same(run.fresh(ids, random_chunks(n, seed * 12, seed)), single));
  }
}

}  // namespace dsv4_test
