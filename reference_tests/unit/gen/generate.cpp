// SPDX-License-Identifier: MIT
// Generation on the mini checkpoint: the same tokens as calling the model by hand, and every way to stop.
#include <dsv4/gen/generate.hpp>
#include <dsv4/io/checkpoint.hpp>
#include <vector>

#include "catch.hpp"
#include "data.hpp"

namespace dsv4_test::gen_generate {
namespace {
using namespace dsv4;
using model_type = transformer<official, exec::ref>;

struct fixture {
  io::checkpoint weights;
  model_type model;
  std::vector<std::int32_t> prompt{1, 5, 9, 100, 3, 77, 500, 12};
  explicit fixture(const std::filesystem::path& dir)
      : weights(io::checkpoint::open(dir)), model(weights.configuration(), weights.weights()) {}

  generation run(const generate_options& o, std::vector<std::int32_t>& out, int at_most = 1000) {
    auto s = model.new_sequence(64);
    sampler choose({}, weights.configuration().vocab_size);
    return generate(model, s, std::span<const std::int32_t>(prompt), o, choose, [&](std::int32_t id) {
      out.push_back(id);
      return static_cast<int>(out.size()) < at_most;
    });
  }
};
}  // namespace

TEST_CASE("generate", "[generate]") {
  const auto dir = golden("official/flash-mini");
  if (!dir) SKIP("golden/official/flash-mini is not here (set DSV4_GOLDEN)");
  fixture f(*dir);

  // By hand: one call per token.
  std::vector<std::int32_t> ids = f.prompt, expected;
  {
    auto s = f.model.new_sequence(64);
    tensor<double, 2> logits(1, f.weights.configuration().vocab_size);
    for (std::size_t i = 0; i < f.prompt.size() + 5; ++i) {
      f.model.forward(s, std::span<const std::int32_t>(ids).subspan(i, 1), logits);
      if (i + 1 < f.prompt.size()) continue;
      ids.push_back(static_cast<std::int32_t>(sampler::greedy(view<const double, 1>(logits[0]))));
      expected.push_back(ids.back());
    }
  }

  std::vector<std::int32_t> out;
  dsv4::index_t told = 0;
  generation g = f.run(
      {.max_new = 6, .stop_ids = {}, .on_prefill = [&](dsv4::index_t done, dsv4::index_t) { told = done; }},
      out);
  CHECK(out == expected);
  CHECK(g.tokens == 6);
  CHECK(g.stop == stop_reason::length);
  CHECK(told == 8);

  out.clear();
  const std::int32_t stop[] = {expected[2]};
  g = f.run({.max_new = 6, .stop_ids = stop}, out);
  CHECK(g.stop == stop_reason::stop_id);
  CHECK(out == std::vector<std::int32_t>(expected.begin(), expected.begin() + static_cast<long>(out.size())));
  CHECK(out.back() == stop[0]);

  out.clear();
  g = f.run({.max_new = 6}, out, 2);
  CHECK(g.stop == stop_reason::caller);
  CHECK(out.size() == 2);

  out.clear();
  CHECK(f.run({.max_new = 0}, out).tokens == 0);
  CHECK_THROWS_AS(f.run({.max_new = 58}, out), contract_violation);  // 8 + 57 > 64
  f.prompt.clear();
  CHECK_THROWS_AS(f.run({.max_new = 1}, out), contract_violation);
}

}  // namespace dsv4_test::gen_generate
