// SPDX-License-Identifier: MIT
// The n-th allocation of a generation, a conversation, a prefix or a batch fails: what is left can be used or refuses,
// and what it then gives has the bits of what never failed.
#include <unistd.h>
#include <dsv4/cpu/cpu.hpp>
#include <dsv4/gen/batcher.hpp>
#include <dsv4/gen/conversation.hpp>
#include <filesystem>
#include <map>
#include <string>

#include "catch.hpp"
#include "failing_allocations.hpp"
#include "random_model.hpp"

namespace dsv4 {
namespace {

using dsv4_test::allocations_of;
using dsv4_test::beyond_json_destructors;
using dsv4_test::failing;
using dsv4_test::random_ids;
using dsv4_test::random_model;
using dsv4_test::tiny_config;
using dsv4_test::with_failing_allocation;
using ids_type = std::vector<std::int32_t>;
using executor = exec::cpu;
using model_type = transformer<official, executor>;

constexpr index_t longest = 320;

/// At most about `most` of the numbers [0, count), the last ones among them all.
std::vector<long> some_of(long count, long most) {
  std::vector<long> all;
  const long step = std::max(1L, count / most);
  for (long n = 0; n < count; n += n + most / 4 < count ? step : 1) all.push_back(n);
  return all;
}

struct fixture {
  random_model weights{tiny_config()};
  model_type model = fresh_model();

  model_type fresh_model() const { return {weights.c, weights.weights, executor{1}}; }
  ids_type random(index_t n, std::uint64_t seed) const { return random_ids(n, weights.c.vocab_size, seed); }
  ids_type fresh(const ids_type& ids, index_t tokens, const sampling& s = {}) {
    auto sequence = model.new_sequence(longest);
    sampler choose(s, weights.c.vocab_size, longest);
    ids_type out;
    generate(model, sequence, std::span<const std::int32_t>(ids), {.max_new = tokens}, choose,
             [&](std::int32_t id) { return out.push_back(id), true; });
    return out;
  }
};

ids_type operator+(ids_type a, const ids_type& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

TEST_CASE("allocations fail in a generation: it goes on from what was heard", "[allocation]") {
  fixture f;
  const ids_type prompt = f.random(37, 1);
  const ids_type expected = f.fresh(prompt, 12);
  sampler choose({}, f.weights.c.vocab_size);
  ids_type heard;
  heard.reserve(64);
  const auto go_on = [&](model_type& m, sequence<official, executor>& s) {
    const ids_type all = prompt + heard;
    const auto unread = std::span<const std::int32_t>(all).subspan(static_cast<std::size_t>(s.length()));
    generate(m, s, unread, {.max_new = 12 - static_cast<index_t>(heard.size())}, choose,
             [&](std::int32_t id) { return heard.push_back(id), true; });
  };
  index_t failures = 0;
  bool reached = true;
  for (long n = 0; reached; ++n) {
    model_type m = f.fresh_model();
    auto s = m.new_sequence(longest);
    heard.clear();
    const failing what = with_failing_allocation(n, [&] { go_on(m, s); });
    reached = what.reached;
    if (what.threw) {
      ++failures;
      if (!s.intact()) s.reset();
      if (heard.size() < 12) go_on(m, s);
    }
    CHECK(heard == expected);
  }
  CHECK(failures > 10);
}

TEST_CASE("allocations fail in a conversation: it answers as if nothing had happened", "[allocation]") {
  fixture f;
  const auto [depth, cut] = GENERATE(table<index_t, index_t>({{0, 0}, {2, 0}, {0, 1}, {2, 1}}));
  const ids_type first = f.random(21, 2);
  const ids_type said = first + f.fresh(first, 9);
  // The second question goes on, or begins again at the end of the first one (from the mark).
  const ids_type next = (cut ? first : said) + f.random(7, 3);
  const ids_type expected = f.fresh(next, 8);
  sampler choose({}, f.weights.c.vocab_size);
  const auto answer = [&](conversation<official, executor>& c, const ids_type& ids, index_t tokens) {
    ids_type out;
    c.answer(ids, {.max_new = tokens}, choose, [&](std::int32_t id) { return out.push_back(id), true; });
    return out;
  };
  long count = 0;
  {
    model_type m = f.fresh_model();
    conversation<official, executor> c(m, longest, depth);
    answer(c, first, 9);
    count = allocations_of([&] { answer(c, next, 8); });
  }
  CHECK(count > 5);
  for (const long n : some_of(count, 24)) {
    CAPTURE(depth, cut, n);
    model_type m = f.fresh_model();
    conversation<official, executor> c(m, longest, depth);
    answer(c, first, 9);
    with_failing_allocation(n, [&] { answer(c, next, 8); });
    CHECK(answer(c, next, 8) == expected);
    CHECK(answer(c, said + f.random(3, 4), 5) == f.fresh(said + f.random(3, 4), 5));
  }
}

TEST_CASE("allocations fail in a conversation's load: nothing has changed", "[allocation]") {
  fixture f;
  const index_t depth = GENERATE(0, 2);
  const auto file =
      std::filesystem::temp_directory_path() / ("dsv4-failing-load-" + std::to_string(getpid()));
  const sampling s{.temperature = 1, .seed = 11, .presence_penalty = 0.1};
  const state_identity identity = identity_of(f.model);
  const auto take = [&](conversation<official, executor>& c, sampler& choose, const ids_type& ids) {
    ids_type out;
    c.answer(ids, {.max_new = 6}, choose, [&](std::int32_t id) { return out.push_back(id), true; });
    return out;
  };
  const ids_type theirs = f.random(33, 5), mine = f.random(20, 6);
  {
    conversation<official, executor> c(f.model, longest, depth);
    sampler choose(s, f.weights.c.vocab_size, longest);
    take(c, choose, theirs);
    c.save(file, identity, choose, "theirs");
  }
  // What goes on when a load fails is what went before.
  const auto begun = [&](sampler& choose) {
    conversation<official, executor> c(f.model, longest, depth);
    take(c, choose, mine);
    return c;
  };
  sampler first(s, f.weights.c.vocab_size, longest);
  auto c = begun(first);
  const ids_type more = ids_type(c.ids().begin(), c.ids().end()) + f.random(4, 7);
  const ids_type expected = take(c, first, more);
  const long count = allocations_of([&] { c.load(file, identity, first); }, beyond_json_destructors);
  for (const long n : some_of(count, 30)) {
    CAPTURE(depth, n);
    sampler choose(s, f.weights.c.vocab_size, longest);
    auto trial = begun(choose);
    const failing what =
        with_failing_allocation(n, [&] { trial.load(file, identity, choose); }, beyond_json_destructors);
    if (!what.threw) continue;
    CHECK(take(trial, choose, more) == expected);
    CHECK(trial.load(file, identity, choose) == "theirs");
  }
  std::filesystem::remove(file);
}

TEST_CASE("allocations fail in what keeps prefixes: a call is kept whole or not at all", "[allocation]") {
  fixture f;
  const ids_type ids = f.random(96, 8);
  const auto window_of = [](const ids_type& v, index_t from, index_t n) {
    return std::span<const std::int32_t>(v).subspan(static_cast<std::size_t>(from),
                                                    static_cast<std::size_t>(n));
  };
  auto s = f.model.new_sequence(longest);
  stored_prefix<official> begun(f.weights.c, window_rule::full);
  read_and_keep(f.model, s, window_of(ids, 0, 88), begun);
  const typename model_type::input last{&s, window_of(ids, 88, 8)};
  f.model.forward(std::span(&last, 1), {});
  const auto logits_after = [&](const stored_prefix<official>& p) {
    auto r = p.restore(f.model, ids, longest);
    tensor<wide_t<executor>, 2> out(96 - r.plan.cut, f.weights.c.vocab_size);
    f.model.forward(r.sequence, window_of(ids, r.plan.cut, 96 - r.plan.cut), out);
    return std::vector<double>(out.data(), out.data() + out.size());
  };
  stored_prefix<official> whole = begun;
  whole.keep(s, window_of(ids, 88, 8), f.model.executor());
  const auto expected = logits_after(whole), before = logits_after(begun);

  index_t failures = 0;
  bool reached = true;
  for (long n = 0; reached; ++n) {
    stored_prefix<official> p = begun;
    const failing what =
        with_failing_allocation(n, [&] { p.keep(s, window_of(ids, 88, 8), f.model.executor()); });
    reached = what.reached;
    if (what.threw) {
      ++failures;
      CHECK(p.length() == 88);
      CHECK(p.bytes() == begun.bytes());
      CHECK(logits_after(p) == before);
      p.keep(s, window_of(ids, 88, 8), f.model.executor());
    }
    CHECK(p.bytes() == whole.bytes());
    CHECK(logits_after(p) == expected);
  }
  CHECK(failures > 5);

  // restore() changes nothing but the model's scratch, and a shelf counts what it has.
  reached = true;
  for (long n = 0; reached; ++n) {
    model_type m = f.fresh_model();
    reached = with_failing_allocation(n, [&] { whole.restore(m, ids, longest); }).reached;
    CHECK(whole.restore(m, ids, longest).plan.cut == 80);
  }
  prefix_shelf<official> shelf(whole.bytes());
  reached = true;
  for (long n = 0; reached; ++n) {
    stored_prefix<official> p = whole;
    const failing what = with_failing_allocation(n, [&] { shelf.put(std::move(p)); });
    reached = what.reached;
    CHECK(shelf.bytes() == (what.threw ? 0 : whole.bytes()));
  }
  CHECK(shelf.all().size() == 1);
}

namespace {

struct counting : batch_listener {
  ids_type ids;
  std::optional<stop_reason> stop;
  bool failure = false;

  void begin(index_t) override {}
  bool token(const batch_token& t) override { return ids.push_back(t.id), true; }
  void end(stop_reason r) override { stop = r; }
  void failed(std::exception_ptr) override { failure = true; }
};

}  // namespace

TEST_CASE("allocations fail in a batch: a request is answered or told, and the batcher goes on",
          "[allocation]") {
  fixture f;
  std::vector<batch_request> requests;
  const ids_type common = f.random(70, 9);
  for (std::uint64_t i = 0; i < 4; ++i) {
    batch_request r;
    if (i % 2 == 0) r.ids = common;
    r.ids = r.ids + f.random(5 + static_cast<index_t>(9 * i), 10 + i);
    r.max_new = 4 + static_cast<index_t>(i);
    r.sampling.temperature = i < 2 ? 0 : 0.8;
    r.sampling.seed = i;
    if (i == 1) r.logprobs = 2;
    requests.push_back(std::move(r));
  }
  std::vector<ids_type> expected;
  for (const batch_request& r : requests) expected.push_back(f.fresh(r.ids, r.max_new, r.sampling));

  using listeners_type = std::vector<std::shared_ptr<counting>>;
  const auto submitted = [&](batcher<official, executor>& b) {
    listeners_type all;
    for (const batch_request& r : requests) {
      all.push_back(std::make_shared<counting>());
      b.submit(r, all.back());
    }
    return all;
  };
  const auto run = [](batcher<official, executor>& b) {
    while (b.step()) {
    }
  };
  const batch_limits limits{.running = 3, .tokens_per_step = 40, .prefix_bytes = index_t{1} << 20};
  long count = 0;
  {
    model_type m = f.fresh_model();
    batcher<official, executor> b(m, limits);
    const auto all = submitted(b);
    count = allocations_of([&] { run(b); });
  }
  index_t told = 0;
  for (const long n : some_of(count, 60)) {
    CAPTURE(n, count);
    model_type m = f.fresh_model();
    batcher<official, executor> b(m, limits);
    const auto all = submitted(b);
    const failing what = with_failing_allocation(n, [&] { run(b); });
    CHECK_FALSE(what.threw);
    index_t failures = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      CHECK(all[i]->failure == !all[i]->stop);  // the one or the other
      if (all[i]->failure)
        ++failures;
      else
        CHECK(all[i]->ids == expected[i]);
    }
    CHECK(b.counts().failed == failures);
    CHECK(b.idle());
    told += failures;
    index_t bytes = 0;
    for (const auto& p : b.prefixes().all()) bytes += p->bytes();
    CHECK(b.prefixes().bytes() == bytes);
    const auto again = submitted(b);
    run(b);
    for (std::size_t i = 0; i < again.size(); ++i) CHECK(again[i]->ids == expected[i]);
  }
  CHECK(told > 10);
}

}  // namespace dsv4
