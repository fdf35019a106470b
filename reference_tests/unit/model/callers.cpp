// SPDX-License-Identifier: MIT
// Who may call a model, and with what: one call at a time, and only what these weights have read.
#include <latch>
#include <thread>

#include <dsv4/gen/prefix_cache.hpp>
#include <dsv4/gen/state_file.hpp>

#include "catch.hpp"
#include "model_run.hpp"

namespace dsv4_test {
namespace {

using run_type = runner<official, exec::ref>;
constexpr index_t longest = 64;

bool refuses(const std::string& message, const std::function<void()>& call) {
  try {
    call();
  } catch (const contract_violation& e) {
    return std::string(e.what()).find(message) != std::string::npos;
  }
  return false;
}

}  // namespace

TEST_CASE("a call while another runs is refused, and the other goes on undisturbed", "[callers]") {
  const random_model weights(tiny_config());
  run_type run(weights);
  const auto ids = random_ids(12, weights.c.vocab_size, 1);
  const auto expected = run.fresh(ids);

  SECTION("a second thread") {
    std::latch inside(1), tried(1);
    bool refused = false;
    std::thread second([&] {
      auto mine = run.m.new_sequence(longest);
      inside.wait();
      refused = refuses("another call has not ended", [&] { run.forward(mine, ids); });
      refused = refused && mine.length() == 0;
      tried.count_down();
    });
    bool first = true;
    const auto logits = run.fresh(ids, {longest}, on_event{[&](const tap_event&) {
                                    if (!std::exchange(first, false)) return;
                                    inside.count_down();
                                    tried.wait();
                                  }});
    second.join();
    CHECK(refused);
    CHECK(same(logits, expected));
  }
  SECTION("an observer") {
    int refused = 0;
    auto other = run.m.new_sequence(longest);
    const auto logits =
        run.fresh(ids, {longest}, on_event{[&](const tap_event&) {
                    refused += refuses("another call has not ended", [&] { run.forward(other, ids); });
                  }});
    CHECK(refused > 100);
    CHECK(same(logits, expected));
  }
  SECTION("another model, with the same sequence") {
    run_type second(weights);
    auto s = run.m.new_sequence(longest);
    int refused = 0;
    const auto logits = run.forward(s, ids, on_event{[&](const tap_event&) {
                                      refused +=
                                          refuses("another call is using", [&] { second.forward(s, ids); });
                                      auto copy = s;  // is another sequence
                                      second.m.forward(copy, {}, tensor<double, 2>(0, weights.c.vocab_size));
                                    }});
    CHECK(refused > 100);
    CHECK(same(logits, expected));
    CHECK(second.forward(s, ids).rows() == 12);
  }
  SECTION("after a first call that threw a shorter one begins anew") {
    auto s = run.m.new_sequence(longest);
    CHECK_THROWS_AS(run.forward(s, ids, on_event{[](const tap_event&) { throw std::runtime_error("stop"); }}),
                    std::runtime_error);
    CHECK(same(run.forward(s, std::span(ids).first(1)), expected.part(0, 1)));
    CHECK(same(run.forward(s, std::span(ids).subspan(1)), expected.part(1, 12)));
  }
  SECTION("after a call that threw nothing is refused") {
    auto s = run.m.new_sequence(longest, longest);
    CHECK_THROWS_AS(run.forward(s, ids, on_event{[](const tap_event&) { throw std::runtime_error("stop"); }}),
                    std::runtime_error);
    CHECK(same(run.forward(s, ids), expected));
  }
}

TEST_CASE("a sequence goes on with the weights that began it, and no others", "[callers]") {
  const random_model weights(tiny_config()), again(tiny_config()), others(tiny_config(), published, 2);
  run_type mine(weights), twin(again), other(others);
  CHECK(mine.m.fingerprint() == twin.m.fingerprint());  // the same checkpoint, opened twice
  CHECK(mine.m.fingerprint() != other.m.fingerprint());
  const auto ids = random_ids(40, weights.c.vocab_size, 2);
  const auto begin = std::span(ids).first(30), more = std::span(ids).subspan(30);
  const auto expected = mine.fresh(ids);

  auto s = mine.m.new_sequence(longest, longest);
  mine.forward(s, begin);
  const char* const said = "other weights of the same sizes";
  CHECK(refuses(said, [&] { other.forward(s, more); }));
  CHECK(s.length() == 30);
  auto copy = s;
  CHECK(refuses(said, [&] { other.forward(copy, more); }));
  CHECK(same(twin.forward(copy, more), expected.part(30, 40)));
  s.rewind(20);
  CHECK(refuses(said, [&] { other.forward(s, more); }));
  // What is new, reset or taken back to its beginning is anybody's.
  const auto of_other = other.fresh(begin);
  s.rewind(0);
  CHECK(same(other.forward(s, begin), of_other));
  CHECK(refuses(said, [&] { mine.forward(s, more); }));
  s.reset();
  CHECK(same(mine.forward(s, begin), expected.part(0, 30)));

  // A call that failed from the beginning began nothing.
  auto failed = mine.m.new_sequence(longest);
  CHECK_THROWS(
      mine.forward(failed, begin, on_event{[](const tap_event&) { throw std::runtime_error("stop"); }}));
  CHECK(same(other.forward(failed, begin), of_other));

  // MTP, and files.
  auto first = mine.m.new_sequence(longest);
  tensor<act_t<official>, 3> streams(30, weights.c.hc_mult, weights.c.hidden_size);
  const run_type::model::input in{&first, begin};
  mine.m.forward(std::span(&in, 1), {{}, {}, streams});
  const run_type::model::mtp_input_rows pairs{&first, begin.subspan(1), streams.all().rows(0, 29)};
  CHECK(refuses(said, [&] { other.m.forward_mtp(std::span(&pairs, 1), run_type::model::output{}); }));
  state_extras<official, exec::ref> extras;
  extras.ids.assign(begin.begin(), begin.end());
  const auto identity = identity_of(other.m);
  CHECK(refuses(said, [&] { save_state("/nowhere/state", identity, other.m, first, extras); }));
}

TEST_CASE("a prefix goes on with the weights that read it, and no others", "[callers]") {
  const random_model weights(tiny_config()), others(tiny_config(), published, 2);
  run_type mine(weights), other(others);
  const auto ids = random_ids(40, weights.c.vocab_size, 3);
  const auto begin = std::span(ids).first(32);
  stored_prefix<official> kept(weights.c, window_rule::full);
  auto s = mine.m.new_sequence(longest);
  read_and_keep(mine.m, s, begin, kept);

  for (const auto& prefix : {kept, kept.first(20, window_rule::full)}) {
    CHECK(refuses("other weights", [&] { prefix.restore(other.m, ids, longest); }));
    CHECK(prefix.restore(mine.m, ids, longest).sequence.length() > 0);
  }
  // Nor are two models' rows mixed in one prefix.
  auto theirs = other.m.new_sequence(longest);
  other.forward(theirs, begin);
  other.forward(theirs, std::span(ids).subspan(32, 4));
  CHECK(refuses("other weights", [&] { kept.keep(theirs, std::span(ids).subspan(32, 4)); }));
  CHECK(kept.length() == 32);
}

TEST_CASE("the fingerprint sees every weight but the later experts and MTP", "[callers]") {
  const random_model weights(tiny_config());
  const std::uint64_t before = fingerprint_of(weights.weights, weights.c);
  CHECK(before == fingerprint_of(weights.weights, weights.c));
  std::vector<std::uint64_t> seen{before};
  each_weight(weights.weights, weights.c, [&](const weight_info& i, const auto& weight) {
    // One bit of its first byte.
    const auto* data = [&] {
      if constexpr (requires { weight.data(); })
        return reinterpret_cast<const std::byte*>(weight.data());
      else
        return weight.data;
    }();
    if (!data) return;
    auto* first = const_cast<std::byte*>(data);
    INFO(i.name);
    *first ^= std::byte{1};
    const std::uint64_t after = fingerprint_of(weights.weights, weights.c);
    *first ^= std::byte{1};
    const bool left_out = i.expert > 0 || i.name.starts_with("mtp.");
    CHECK((after == before) == left_out);
    if (!left_out) seen.push_back(after);
  });
  std::sort(seen.begin(), seen.end());
  CHECK(seen.size() > 100);
  CHECK(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
}

}  // namespace dsv4_test
