// SPDX-License-Identifier: MIT
// Save, load, go on: the same bits as the sequence that was never written down, whatever its length.
#include "catch.hpp"
#include "data.hpp"
#include "state_run.hpp"

#include <dsv4/io/checkpoint.hpp>

namespace dsv4_test {
namespace {

/// Both go on with the same calls: every logit of model and MTP, and in the end every byte of the state.
template <class Run>
void check_same_future(Run& a, typename Run::sequence_type s, typename Run::extras_type x, Run& b,
                       typename Run::sequence_type t, typename Run::extras_type y,
                       std::span<const std::int32_t> future) {
  std::size_t at = 0;
  for (const std::size_t chunk : {1, 1, 3, 1, 24}) {
    const std::size_t n = std::min(chunk, future.size() - at);
    if (n == 0) break;
    const auto ids = future.subspan(at, n);
    REQUIRE((a.feed(s, x, ids) == b.feed(t, y, ids)));
    at += n;
  }
  REQUIRE((a.encoded(s, x) == b.encoded(t, y)));
}

/// Every prefix of `ids` as one chunk of tokens after another, saved and loaded into another model object.
template <numerics_policy P, execution E>
void check_every_length(const random_model& r, index_t longest, const std::vector<index_t>& chunks,
                        E first = {}, E second = {}) {
  state_run<P, E> a(r, first), b(r, second);
  const auto ids = random_ids(longest + 30, r.c.vocab_size, 5);
  constexpr index_t back = 3;
  auto s = a.model.new_sequence(longest + 30, back);
  state_extras<P, E> x;
  x.seed = 7;
  for (std::size_t i = 0; s.length() < longest; ++i) {
    const auto n = std::min(chunks[i % chunks.size()], longest - s.length());
    a.feed(s, x, std::span(ids).subspan(static_cast<std::size_t>(s.length()), static_cast<std::size_t>(n)));
    INFO("saved at " << s.length());
    x.sampler.draws = static_cast<std::uint64_t>(s.length());
    x.application = std::string(static_cast<std::size_t>(s.length() % 9), 'x');  // arrays at every alignment
    auto loaded = b.decoded(a.encoded(s, x), {longest + 30, back});
    CHECK(loaded.sequence.length() == s.length());
    CHECK(loaded.sequence.mtp_length() == s.length() - 1);
    CHECK(loaded.extras.ids == x.ids);
    CHECK(loaded.extras.sampler.draws == x.sampler.draws);
    CHECK(loaded.extras.seed == 7);
    CHECK(loaded.extras.application == x.application);
    REQUIRE((b.encoded(loaded.sequence, loaded.extras) == a.encoded(s, x)));
    const auto future = std::span(ids).subspan(static_cast<std::size_t>(s.length()), 30);
    check_same_future(a, s, x, b, loaded.sequence, loaded.extras, future);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("load and continue has the bits of never having stopped, at every length", "[state]",
                   DSV4_TEST_EXECUTORS) {
  // Window 8, HCA blocks of 16, top-k 4 entries of 4: all crossed more than once.
  const random_model r(tiny_config());
  SECTION("official") { check_every_length<official, TestType>(r, 96, {1}); }
  SECTION("float32") { check_every_length<float32<float>, TestType>(r, 96, {1}); }
  SECTION("official, in chunks") { check_every_length<official, TestType>(r, 96, {5, 1, 11, 2}); }
  SECTION("a window of one; ratios that divide nothing") {
    check_every_length<official, TestType>(random_model(tiny_config({4, 7, 0, 5}, 1)), 40, {1});
  }
}

TEST_CASE("float32<double> states are F64 throughout", "[state]") {
  check_every_length<float32<double>, exec::ref>(random_model(tiny_config()), 40, {3});
}

TEST_CASE("saved on one thread, continued on three", "[state]") {
  check_every_length<official, exec::cpu>(random_model(tiny_config()), 40, {1, 7}, exec::cpu{1},
                                          exec::cpu{3});
  check_every_length<float32<float>, exec::cpu_fast>(random_model(tiny_config()), 40, {1, 7},
                                                     exec::cpu_fast{3}, exec::cpu_fast{1});
}

TEMPLATE_TEST_CASE("states of the mini checkpoint, through files", "[state]", DSV4_TEST_EXECUTORS) {
  const auto dir = ::golden("official/flash-mini");
  if (!dir) SKIP("golden/official/flash-mini is not here (set DSV4_GOLDEN)");
  const io::checkpoint weights = io::checkpoint::open(*dir);
  using run_type = state_run<official, TestType>;
  run_type a(weights.configuration(), weights.weights()), b(weights.configuration(), weights.weights());
  CHECK(a.identity == b.identity);
  const scratch_folder folder;
  const auto path = folder.path / "chat.state";
  const auto ids = random_ids(330, a.c().vocab_size, 6);
  const state_limits limits{330, 4};
  auto s = a.model.new_sequence(limits.max_tokens, limits.max_rewind);
  typename run_type::extras_type x;
  // Far beyond its window (8), its HCA blocks (16) and the entries that it chooses.
  for (const index_t p : {1, 2, 3, 4, 5, 63, 64, 65, 127, 128, 129, 131, 132, 200, 255, 256, 257, 300}) {
    INFO("saved at " << p);
    a.feed(s, x,
           std::span(ids).subspan(static_cast<std::size_t>(s.length()),
                                  static_cast<std::size_t>(p - s.length())));
    save_state(path, a.identity, a.model, s, x);
    const auto loaded = load_state(path, b.identity, b.model, limits);
    CHECK((b.encoded(loaded.sequence, loaded.extras) == a.encoded(s, x)));
    check_same_future(a, s, x, b, loaded.sequence, loaded.extras,
                      std::span(ids).subspan(static_cast<std::size_t>(p), 10));
  }
  CHECK(folder.files() == 1);
}

TEMPLATE_TEST_CASE("a loaded sequence goes back as far as the saved one could, and no further", "[state]",
                   DSV4_TEST_EXECUTORS) {
  const random_model r(tiny_config());
  using run_type = state_run<official, TestType>;
  run_type a(r);
  const auto ids = random_ids(80, r.c.vocab_size, 8), other = random_ids(30, r.c.vocab_size, 9);
  const auto part = [&](index_t from, index_t to) {
    return std::span(ids).subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from));
  };
  constexpr index_t back = 5;
  const auto go_back = [](auto& s, auto& x,
                          index_t to) {  // extras as they were; MTP has pairs below `to` - 1
    s.rewind(to);
    x.ids.resize(static_cast<std::size_t>(to));
    x.streams = {};
    x.logits.clear();
  };
  for (const index_t length : {3, 8, 9, 16, 17, 19, 20, 33, 48})
    for (const index_t taken : {0, 2}) {  // taken back before it was saved
      auto s = a.model.new_sequence(80, back);
      typename run_type::extras_type x;
      a.feed(s, x, part(0, length + taken));
      if (taken) go_back(s, x, length);
      for (const index_t room : {0, 3, 5, 9}) {
        auto loaded = a.decoded(a.encoded(s, x), {80, room});
        const index_t limit = std::max(index_t{0}, std::max(length + taken - back, length - room));
        CHECK(std::max(index_t{0}, loaded.sequence.rewind_limit()) == limit);
        for (index_t to = 1; to < length; ++to) {
          INFO("length " << length << " + " << taken << ", loaded with room " << room << ", back to " << to);
          auto t = loaded.sequence;
          auto y = loaded.extras;
          if (to < limit) {
            CHECK_THROWS_AS(t.rewind(to), contract_violation);
            CHECK(t.length() == length);
            continue;
          }
          auto u = s;
          auto z = x;
          go_back(t, y, to);
          go_back(u, z, to);
          CHECK(t.mtp_length() == u.mtp_length());
          // Other tokens follow; without MTP, whose pairs need streams from before.
          for (const std::size_t n : {1, 3, 9}) {
            const auto next = std::span(other).subspan(n, n);
            REQUIRE((a.feed(t, y, next, false) == a.feed(u, z, next, false)));
          }
        }
        // Going on makes room again, but never below the floor.
        auto t = loaded.sequence;
        auto y = loaded.extras;
        a.feed(t, y, part(length, length + 12), false);
        CHECK(t.rewind_limit() == std::max(limit, length + 12 - room));
        t.reset();
        y = {};
        auto fresh = a.model.new_sequence(80);
        typename run_type::extras_type none;
        CHECK((a.feed(t, y, part(0, 20)) == a.feed(fresh, none, part(0, 20))));
      }
    }
}

}  // namespace dsv4_test
