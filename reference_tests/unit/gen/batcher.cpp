// SPDX-License-Identifier: MIT
// Continuous batching: numbers in brackets are the postconditions of gen/batcher.hpp.
#include <dsv4/cpu/cpu.hpp>
#include <dsv4/gen/batcher.hpp>
#include <dsv4/gen/generate.hpp>
#include <map>
#include <set>

#include "catch.hpp"
#include "random_model.hpp"

namespace dsv4_test::gen_batcher {
namespace {

using namespace dsv4;
using dsv4_test::random_ids;
using dsv4_test::random_model;
using dsv4_test::tiny_config;
using ids_type = std::vector<std::int32_t>;

/// What a request got: all of it, to the last bit.
struct answer {
  ids_type ids;
  std::vector<double> log_probabilities;
  std::vector<std::pair<std::int32_t, double>> top;
  std::optional<stop_reason> stop;
  bool operator==(const answer&) const = default;
};

struct recording : batch_listener {
  answer got;
  index_t reused = -1, most = 1000;
  std::string failure;

  void begin(index_t r) override { reused = r; }
  bool token(const batch_token& t) override {
    got.ids.push_back(t.id);
    got.log_probabilities.push_back(t.log_probability);
    for (const token_probability& p : t.top) got.top.emplace_back(p.id, p.log_probability);
    return static_cast<index_t>(got.ids.size()) < most;
  }
  void end(stop_reason r) override { got.stop = r; }
  void failed(std::exception_ptr why) override {
    try {
      std::rethrow_exception(why);
    } catch (const std::exception& e) {
      failure = e.what();
    }
  }
};

/// Requests of every kind: long and short, greedy and drawn, with penalties, some that begin alike.
std::vector<batch_request> requests(const config& c) {
  std::vector<batch_request> all;
  const ids_type common = random_ids(70, c.vocab_size, 5);
  for (std::uint64_t i = 0; i < 14; ++i) {
    batch_request r;
    if (i % 3 == 0) r.ids = common;
    for (const std::int32_t id : random_ids(1 + static_cast<index_t>(i * 7 % 60), c.vocab_size, 100 + i))
      r.ids.push_back(id);
    r.max_new = 3 + static_cast<index_t>(i % 5) * 6;
    r.stop_ids = {7};
    r.sampling.temperature = i % 4 == 0 ? 0 : 0.8;
    r.sampling.seed = i;
    if (i % 5 == 1) r.sampling.frequency_penalty = 0.3, r.sampling.top_p = 0.9;
    if (i % 2 == 0) r.logprobs = 3;
    all.push_back(std::move(r));
  }
  return all;
}

template <class P, class Executor>
void check_independence(Executor e, const dsv4_test::formats& f) {
  random_model w(tiny_config(), f);
  // Weights of 24 bits, so that the head's sums round, and in their order: one row alone would give other bits.
  if (f.plain == dsv4_test::stored_as::f32) {
    const weight_matrix& head = w.weights.head;
    auto* const x = reinterpret_cast<float*>(const_cast<std::byte*>(head.data));
    for (index_t i = 0; i < head.rows * head.cols; ++i) x[i] += 1 / static_cast<float>(3 * i + 1000);
  }
  using model_type = transformer<P, Executor>;
  model_type model(w.c, w.weights, e);
  const auto all = requests(w.c);

  // Alone, one after the other; the tokens are those of generate().  (1)
  std::vector<answer> alone;
  for (const batch_request& r : all) {
    batcher<P, Executor> b(model, {});
    const auto l = std::make_shared<recording>();
    b.submit(r, l);
    while (b.step()) {
    }
    REQUIRE(l->failure.empty());
    alone.push_back(l->got);

    const index_t longest = static_cast<index_t>(r.ids.size()) + r.max_new;
    auto s = model.new_sequence(longest);
    sampler choose(r.sampling, w.c.vocab_size, longest);
    ids_type ids;
    const generation g = generate(model, s, std::span<const std::int32_t>(r.ids),
                                  {.max_new = r.max_new, .stop_ids = r.stop_ids}, choose,
                                  [&](std::int32_t id) { return ids.push_back(id), true; });
    CHECK(ids == l->got.ids);
    CHECK(g.stop == l->got.stop);
  }

  // Together, coming at different times, with few and many places, with a prefix cache and without.
  index_t reused = 0;
  for (const index_t places : {2, 5, 16})
    for (const index_t kept : {index_t{0}, index_t{1} << 24})
      for (const index_t step : {17, 256}) {
        batcher<P, Executor> b(model, {.running = places, .tokens_per_step = step, .prefix_bytes = kept});
        std::vector<std::shared_ptr<recording>> listeners;
        dsv4_test::integers r{static_cast<std::uint64_t>(places * 100 + step)};
        for (const batch_request& request : all) {
          listeners.push_back(std::make_shared<recording>());
          b.submit(request, listeners.back());
          for (index_t i = r.below(6); i > 0; --i) b.step();
        }
        while (b.step()) {
        }
        for (std::size_t i = 0; i < all.size(); ++i) {
          INFO("request " << i << ", " << places << " places, " << step << " tokens a step, cache " << kept);
          REQUIRE(listeners[i]->failure.empty());
          REQUIRE((listeners[i]->got == alone[i]));  // to the last bit of the log-probabilities
          reused += listeners[i]->reused;
        }
        CHECK(b.counts().ended == static_cast<index_t>(all.size()));
        CHECK(b.prefixes().bytes() <= kept);
        CHECK(b.idle());
      }
  CHECK(reused > 0);
}

TEST_CASE("what a request gets does not depend on what runs beside it: exec::cpu") {
  check_independence<official>(exec::cpu{2}, dsv4_test::published);
  check_independence<float32<>>(exec::cpu{1}, dsv4_test::all_f32);
}
TEST_CASE("what a request gets does not depend on what runs beside it: exec::cpu_fast") {
  check_independence<official>(exec::cpu_fast{1}, dsv4_test::published);
}

struct small {
  random_model w{tiny_config()};
  transformer<official, exec::cpu> model{w.c, w.weights, exec::cpu{1}};
  batch_request request(index_t n, index_t max_new, std::uint64_t seed = 1) const {
    return {.ids = random_ids(n, w.c.vocab_size, seed), .max_new = max_new, .stop_ids = {}, .sampling = {}};
  }
};
using small_batcher = batcher<official, exec::cpu>;

TEST_CASE("a request that is cancelled is not heard of again, and the others do not notice") {
  small m;
  small_batcher quiet(m.model, {.running = 4});
  const auto expected = std::make_shared<recording>();
  quiet.submit(m.request(30, 20, 3), expected);
  while (quiet.step()) {
  }
  for (int when = 0; when < 12; ++when) {
    small_batcher b(m.model, {.running = 2, .prefix_bytes = 1 << 24});
    const auto gone = std::make_shared<recording>(), stays = std::make_shared<recording>(),
               waits = std::make_shared<recording>();
    const auto t = b.submit(m.request(300, 50, 2), gone);
    b.submit(m.request(30, 20, 3), stays);
    const auto u = b.submit(m.request(10, 5, 4), waits);
    for (int i = 0; i < when; ++i) b.step();
    b.cancel(t);
    if (when == 0) b.cancel(u);
    const std::size_t had = gone->got.ids.size();
    while (b.step()) {
    }
    CHECK(gone->got.ids.size() == had);  // (2)
    CHECK_FALSE(gone->got.stop);
    CHECK((stays->got == expected->got));
    CHECK(waits->got.ids.size() == (when == 0 ? 0u : 5u));
    CHECK(b.counts().cancelled == (when == 0 ? 2 : 1));
    b.cancel(t);  // no mistake
    CHECK(b.running() == 0);
  }
}

TEST_CASE("a failure ends the request that caused it, and no other") {
  small m;
  small_batcher b(m.model, {.running = 3});
  const auto bad = std::make_shared<recording>(), good = std::make_shared<recording>(),
             none = std::make_shared<recording>();
  batch_request r = m.request(20, 10);
  r.sampling.constrain = [n = 0](std::span<const std::int32_t>, std::span<double>) mutable {
    if (++n == 4) throw error("planted");
  };
  b.submit(r, bad);
  r.sampling.constrain = [](std::span<const std::int32_t>, std::span<double> x) {
    std::fill(x.begin(), x.end(), -std::numeric_limits<double>::infinity());
  };
  b.submit(r, none);
  b.submit(m.request(20, 10), good);
  while (b.step()) {
  }
  CHECK(bad->failure == "planted");  // (3)
  CHECK(bad->got.ids.size() == 3);
  CHECK(none->failure.find("no logit") != std::string::npos);
  CHECK(good->failure.empty());
  CHECK(good->got.ids.size() == 10);
  CHECK(b.counts().failed == 2);
}

TEST_CASE("limits of the queue and of the memory; the caller may end an answer") {
  small m;
  small_batcher b(m.model, {.running = 2, .queued = 3, .tokens_in_memory = 100});
  std::vector<std::shared_ptr<recording>> listeners;
  for (int i = 0; i < 5; ++i) {
    listeners.push_back(std::make_shared<recording>());
    listeners.back()->most = 2;
    b.submit(m.request(20, 40), listeners.back());
  }
  CHECK_THROWS_AS(b.submit(m.request(1, 1), listeners[0]), batch_full);
  index_t most = 0;
  while (b.step()) most = std::max(most, b.running());
  CHECK(most == 1);  // two of 60 tokens do not fit 100
  for (const auto& l : listeners) {
    CHECK(l->got.ids.size() == 2);
    CHECK(l->got.stop == stop_reason::caller);
  }
  const auto l = std::make_shared<recording>();
  CHECK_THROWS_AS(b.submit({.ids = {}, .max_new = 1, .stop_ids = {}, .sampling = {}}, l), contract_violation);
  CHECK_THROWS_AS(b.submit({.ids = {48}, .max_new = 1, .stop_ids = {}, .sampling = {}}, l),
                  contract_violation);
  CHECK_THROWS_AS(b.submit(m.request(20, 0), l), contract_violation);
  CHECK_THROWS_AS(b.submit(m.request(20, 81), l), contract_violation);
  small_batcher wide(m.model, {});
  CHECK_THROWS_AS(wide.submit(m.request(1000, 25), l), contract_violation);
  CHECK_THROWS_AS(small_batcher(m.model, {.running = 300}), contract_violation);
  CHECK_THROWS_AS(small_batcher(m.model, {.tokens_per_step = 1000}), contract_violation);
  CHECK(b.idle());
}

TEST_CASE("the beginning of a stored prefix is what reading it alone would have stored") {
  small m;
  const ids_type ids = random_ids(200, m.w.c.vocab_size, 9);
  const auto read = [&](index_t n) {
    stored_prefix<official> p(m.w.c, window_rule::periodic, 32);
    auto s = m.model.new_sequence(400);
    read_and_keep(m.model, s, std::span<const std::int32_t>(ids).first(static_cast<std::size_t>(n)), p);
    return p;
  };
  const auto whole = read(200);
  for (const index_t n : {0, 1, 16, 31, 32, 33, 64, 100, 160, 200}) {
    const auto a = whole.first(n, window_rule::periodic, 32), b = read(n);
    INFO(n);
    CHECK(std::equal(a.ids().begin(), a.ids().end(), b.ids().begin(), b.ids().end()));
    CHECK(a.entry_bytes() == b.entry_bytes());
    // Rows of a period that is cut through are there, too; a reader of n tokens had no reason to keep them.
    CHECK(a.window_bytes() >= b.window_bytes());
    ids_type prompt(ids.begin(), ids.begin() + n);
    prompt.push_back(3);
    const auto x = a.restore(m.model, prompt, 400), y = b.restore(m.model, prompt, 400);
    CHECK(x.plan.cut == y.plan.cut);
    CHECK(x.plan.from == y.plan.from);
  }
  CHECK_THROWS_AS(whole.first(201, window_rule::zero), contract_violation);
}

TEST_CASE("a shelf of prefixes keeps what was used last") {
  small m;
  const auto read = [&](std::uint64_t seed, index_t n) {
    stored_prefix<official> p(m.w.c, window_rule::full);
    auto s = m.model.new_sequence(n);
    const ids_type ids = random_ids(n, m.w.c.vocab_size, seed);
    read_and_keep(m.model, s, std::span<const std::int32_t>(ids), p);
    return p;
  };
  const index_t one = read(1, 96).bytes();
  prefix_shelf<official> shelf(3 * one);
  for (const std::uint64_t seed : {1, 2, 3}) shelf.put(read(seed, 96));
  CHECK(shelf.bytes() == 3 * one);
  CHECK(shelf.find(random_ids(97, m.w.c.vocab_size, 1)));  // now the last used
  shelf.put(read(4, 96));
  CHECK(shelf.all().size() == 3);
  CHECK(shelf.find(random_ids(97, m.w.c.vocab_size, 1)));
  CHECK_FALSE(shelf.find(random_ids(97, m.w.c.vocab_size, 2)));
  shelf.put(read(4, 48));  // the beginning of one that is there
  CHECK(shelf.all().size() == 3);
  CHECK(shelf.bytes() <= 3 * one);
  prefix_shelf<official> none(one - 1);
  none.put(read(1, 96));
  CHECK(none.bytes() == 0);
}

}  // namespace

}  // namespace dsv4_test::gen_batcher
