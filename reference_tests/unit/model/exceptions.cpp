// SPDX-License-Identifier: MIT
// What an exception leaves behind: after any failed call a sequence either is what it was, with the same bits in all
// that follows, or refuses until it is reset.  An observer throws at every event in turn, and the n-th allocation
// fails for every n.  Also: sizes that no memory has are refused before any is taken.
#include <limits>

#include "catch.hpp"
#include "executors.hpp"
#include "failing_allocations.hpp"
#include "model_run.hpp"

namespace dsv4_test {
namespace {

/// Throws at its n-th event.
struct thrower {
  static constexpr bool on = true;
  long left;
  void operator()(const tap_event&) {
    if (left-- == 0) throw std::runtime_error("the observer's own");
  }
};

/// A sequence that has read `before` tokens, with what a failing call may do to it and what must follow.
template <execution E>
struct trial {
  static constexpr index_t before = 21, again = 9, after = 3;
  const random_model& weights;
  index_t max_rewind;
  std::vector<std::int32_t> ids = random_ids(before + again + after, weights.c.vocab_size, 3);

  using model = transformer<official, E>;
  using sequence_type = sequence<official, E>;
  std::span<const std::int32_t> part(index_t from, index_t n) const {
    return std::span(ids).subspan(std::size_t(from), std::size_t(n));
  }
  tensor<wide_t<E>, 2> logits{again, weights.c.vocab_size};
  tensor<act_t<official>, 3> streams{before, weights.c.hc_mult, weights.c.hidden_size};

  sequence_type begun(model& m) {
    auto s = m.new_sequence(before + again + after, max_rewind);
    tensor<wide_t<E>, 2> out(before, weights.c.vocab_size);
    const typename model::input in{&s, part(0, before)};
    m.forward(std::span(&in, 1), {out, {}, streams});
    return s;
  }
  template <class Tap>
  void step(model& m, sequence_type& s, Tap& tap) {
    m.forward(s, part(before, again), logits, tap);
  }
  std::vector<double> values() const { return {logits.data(), logits.data() + logits.size()}; }

  /// fail(m, s) may throw: then s is as before or refuses.  Returns whether it threw.
  template <class Fail>
  bool check(model& m, const sequence_type& start, const std::vector<double>& expected, Fail&& fail,
             index_t& refused) {
    sequence_type s = start;
    try {
      fail(m, s);
      return false;
    } catch (const std::bad_alloc&) {
    } catch (const std::runtime_error& e) {
      if (std::string(e.what()) != "the observer's own") throw;
    }
    allocations_left = -1;
    CHECK(s.length() == before);
    no_tap none;
    if (s.intact()) {
      step(m, s, none);
      CHECK(values() == expected);
      return true;
    }
    ++refused;
    CHECK(max_rewind + 1 < again);
    CHECK_THROWS_WITH(step(m, s, none), Catch::Matchers::ContainsSubstring("reset()"));
    CHECK_THROWS_AS(s.rewind(before - 1), contract_violation);
    CHECK(s.length() == before);
    s.reset();
    tensor<wide_t<E>, 2> out(before, weights.c.vocab_size);
    m.forward(s, part(0, before), out);
    step(m, s, none);
    CHECK(values() == expected);
    return true;
  }
};

template <execution E>
void observers_throw(index_t max_rewind, index_t tokens_per_pass) {
  const random_model weights(tiny_config());
  trial<E> t{weights, max_rewind};
  typename trial<E>::model m(weights.c, weights.weights, E{}, tokens_per_pass);
  const auto start = t.begun(m);
  auto straight = start;
  no_tap none;
  t.step(m, straight, none);
  const auto expected = t.values();
  index_t refused = 0;
  long n = 0;
  const auto fail = [&](auto& model, auto& s) {
    thrower tap{n};
    t.step(model, s, tap);
  };
  while (t.check(m, start, expected, fail, refused)) n += 7;  // every seventh event: all sites, all layers
  CHECK(n > 100);
  // A batch of one call's tokens within max_rewind + 1 is never refused; a longer one is, once rows were overwritten.
  CHECK((refused > 0) == (max_rewind + 1 < trial<E>::again));
}

template <execution E>
void allocations_fail(index_t max_rewind) {
  const random_model weights(tiny_config());
  trial<E> t{weights, max_rewind};
  typename trial<E>::model first(weights.c, weights.weights);
  const auto start = t.begun(first);
  auto straight = start;
  no_tap none;
  t.step(first, straight, none);
  const auto expected = t.values();
  index_t refused = 0;
  long n = 0;
  // A new model each time: scratch that is kept allocates only once.
  for (;; ++n) {
    typename trial<E>::model m(weights.c, weights.weights);
    const bool threw = t.check(
        m, start, expected,
        [&](auto& model, auto& s) {
          counted_bytes = 0;
          allocations_left = n;
          t.step(model, s, none);
          allocations_left = -1;
        },
        refused);
    if (!threw) break;
  }
  allocations_left = -1;
  CHECK(n > 3);
}

}  // namespace

TEMPLATE_TEST_CASE("an observer's exception at any event: whole, or refused until reset", "[model]",
                   exec::ref, exec::cpu) {
  observers_throw<TestType>(16, 512);
  observers_throw<TestType>(8, 4);  // several passes, of which some are done
  observers_throw<TestType>(2, 512);
}

TEMPLATE_TEST_CASE("the n-th allocation of a call fails, for every n", "[model]", exec::ref, exec::cpu) {
  allocations_fail<TestType>(16);
  allocations_fail<TestType>(0);
}

TEST_CASE("an exception in MTP leaves the main model's part alone", "[model]") {
  const random_model weights(tiny_config());
  trial<exec::ref> t{weights, 2};
  using model = trial<exec::ref>::model;
  model m(weights.c, weights.weights);
  const auto start = t.begun(m);
  const index_t pairs = trial<exec::ref>::before - 1;
  const auto run = [&](auto& s, auto& tap) {
    const model::mtp_input_rows in{&s, t.part(1, pairs), t.streams.all().rows(0, pairs)};
    tensor<double, 2> out(pairs, weights.c.vocab_size);
    m.forward_mtp(std::span<const model::mtp_input_rows>(&in, 1), out.all(), tap);
    return std::vector<double>(out.data(), out.data() + out.size());
  };
  no_tap none;
  auto straight = start;
  const auto expected = run(straight, none);
  for (long n = 0; n < 30; n += 3) {
    auto s = start;
    thrower tap{n};
    CHECK_THROWS_AS(run(s, tap), std::runtime_error);
    CHECK(s.mtp_length() == 0);  // from the beginning nothing can be lost
    CHECK(s.intact());
    CHECK(run(s, none) == expected);
    // With pairs already there, and more than a ring can spare: refused, until these go.
    auto longer = straight;
    longer.rewind_mtp(pairs - 2);
    tap.left = n;
    const model::mtp_input_rows again{&longer, t.part(pairs - 1, 10), t.streams.all().rows(0, 10)};
    const model::output nothing{};
    CHECK_THROWS_AS(m.forward_mtp(std::span(&again, 1), nothing, tap), std::runtime_error);
    CHECK(longer.length() == trial<exec::ref>::before);
    CHECK(longer.mtp_length() == pairs - 2);
    CHECK_FALSE(longer.intact());
    CHECK_THROWS_WITH(m.forward_mtp(std::span(&again, 1), nothing),
                      Catch::Matchers::ContainsSubstring("rewind_mtp(0)"));
    t.step(m, longer, none);  // the main model's memory is whole
    longer.rewind_mtp(0);
    CHECK(longer.intact());
    CHECK(run(longer, none) == expected);
  }
}

TEST_CASE("the n-th allocation of an MTP call fails, for every n", "[model]") {
  const random_model weights(tiny_config());
  trial<exec::ref> t{weights, 2};
  using model = trial<exec::ref>::model;
  model first(weights.c, weights.weights);
  const auto start = t.begun(first);
  const index_t pairs = trial<exec::ref>::before - 1;
  tensor<double, 2> out(pairs, weights.c.vocab_size);
  const auto run = [&](model& m, auto& s) {
    const model::mtp_input_rows in{&s, t.part(1, pairs), t.streams.all().rows(0, pairs)};
    m.forward_mtp(std::span<const model::mtp_input_rows>(&in, 1), out.all());
  };
  const auto values = [&] { return std::vector<double>(out.data(), out.data() + out.size()); };
  auto straight = start;
  run(first, straight);
  const auto expected = values();
  no_tap none;
  t.step(first, straight, none);
  const auto after = t.values();
  long n = 0;
  for (bool reached = true; reached; ++n) {
    model m(weights.c, weights.weights);  // scratch that is kept allocates only once
    auto s = start;
    const failing f = with_failing_allocation(n, [&] { run(m, s); });
    reached = f.reached;
    if (!f.threw) continue;
    CHECK(s.mtp_length() == 0);
    CHECK(s.intact());
    run(m, s);
    CHECK(values() == expected);
    t.step(m, s, none);
    CHECK(t.values() == after);
  }
  CHECK(n > 3);
}

TEST_CASE("a sequence is assigned whole or not at all", "[model]") {
  const random_model weights(tiny_config());
  trial<exec::ref> t{weights, 2};
  trial<exec::ref>::model m(weights.c, weights.weights);
  const auto from = t.begun(m);
  auto to = m.new_sequence(40, 2);
  tensor<double, 2> out(9, weights.c.vocab_size);
  m.forward(to, t.part(12, 9), out);
  no_tap none;
  auto other = to;
  t.step(m, other, none);
  const auto expected = t.values();
  long n = 0;
  for (bool reached = true; reached; ++n) {
    auto s = to;
    const failing f = with_failing_allocation(n, [&] { s = from; });
    reached = f.reached;
    if (!f.threw) continue;
    t.step(m, s, none);
    CHECK(t.values() == expected);
  }
  CHECK(n > 3);
}

TEST_CASE("sizes are checked before memory is taken", "[model]") {
  const random_model weights(tiny_config());
  transformer<official, exec::ref> m(weights.c, weights.weights);
  const index_t longest = weights.c.max_position_embeddings, huge = std::numeric_limits<index_t>::max();

  // More tokens to take back than there can be means all of them.
  auto s = m.new_sequence(20, index_t{1} << 62);
  CHECK(s.max_rewind() == 20);
  CHECK(m.new_sequence(20, huge).max_rewind() == 20);
  const auto ids = random_ids(20, weights.c.vocab_size, 1);
  tensor<double, 2> logits(20, weights.c.vocab_size);
  m.forward(s, ids, logits);
  s.rewind(1);
  CHECK_THROWS_AS(m.new_sequence(longest + 1, 0), contract_violation);
  CHECK_THROWS_AS(m.new_sequence(huge, huge), contract_violation);
  CHECK_THROWS_AS(m.new_sequence(-1, 0), contract_violation);
  CHECK_THROWS_AS(m.new_sequence(1, -1), contract_violation);

  using matrix = tensor<float, 2>;
  CHECK_THROWS_WITH(matrix(400, index_t{1} << 62),
                    Catch::Matchers::ContainsSubstring("[400, 4611686018427387904]"));
  CHECK_THROWS_AS(matrix(huge, 1), contract_violation);
  CHECK_THROWS_AS(matrix(-1, 4), contract_violation);
  CHECK_THROWS_AS(matrix(huge / 4, 1), contract_violation);  // the bytes fit, but not with room for alignment
  CHECK(matrix(0, huge).size() == 0);
  workspace scratch;
  CHECK_THROWS_AS(scratch.take<double>(index_t{1} << 31, index_t{1} << 31), contract_violation);
  CHECK_THROWS_AS(scratch.take<double>(index_t{-1}), contract_violation);
  CHECK(scratch.take<double>(4).extent(0) == 4);  // and goes on
  using rows = history<float>;
  CHECK_THROWS_AS(rows(huge, 2), contract_violation);
}

}  // namespace dsv4_test
