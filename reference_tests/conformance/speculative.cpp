// SPDX-License-Identifier: MIT
// Greedy decoding with drafts gives, on every golden model and executor, byte for byte the tokens of decoding
// without them: drafts of depth 1 to 4, from prompts that end around every boundary, so that drafts, refusals
// and rewinds cross it.  Drafts of MTP (mostly refused: the weights are random) and of an oracle (any number
// accepted).
#include <algorithm>
#include <set>

#include <dsv4/io/checkpoint.hpp>
#include "catch.hpp"
#include "data.hpp"
#include "drafters.hpp"
#include "executors.hpp"

namespace dsv4_test::conformance_speculative {
namespace {

using ids_t = std::vector<std::int32_t>;
constexpr index_t deepest = 4;

/// Prompt lengths around the CSA block, the window, the HCA block and the context where top-k begins to choose.
std::vector<index_t> lengths_of(const config& c) {
  std::set<index_t> r{1, 2, 3, 4, 5};
  std::set<index_t> boundaries{csa_ratio, c.sliding_window, csa_ratio * c.index_topk};
  for (index_t l = 0; l < c.num_hidden_layers; ++l)
    if (c.kind(l) == attention_kind::hca) boundaries.insert({c.ratio(l), 2 * c.ratio(l)});
  // The answer is long enough to cross from three tokens before; at the boundary itself, and just after.
  for (const index_t b : boundaries)
    for (const index_t n : {b - 3, b, b + 1}) r.insert(std::max(n, index_t{1}));
  return {r.begin(), r.end()};
}

sampling penalised() {
  sampling s{
      .repetition_penalty = 1.2, .frequency_penalty = 0.05, .presence_penalty = 0.1, .penalty_window = 20};
  s.bias = {{3, 1.5}, {7, -HUGE_VAL}};
  s.constrain = [](std::span<const std::int32_t> ids, std::span<double> x) {
    // Every third token is even.
    if (ids.size() % 3 == 0)
      for (std::size_t i = 1; i < x.size(); i += 2) x[i] = -HUGE_VAL;
  };
  return s;
}

template <class E>
struct outcome {
  index_t texts = 0, accepted = 0, proposed = 0;
};

/// Compares at each of the prompt lengths; returns how much was drafted and accepted.
template <execution E>
outcome<E> compare(const std::string& name, const io::checkpoint& checkpoint, const sampling& settings,
                   const std::vector<index_t>& lengths, E e = {}) {
  using P = official;
  const config& c = checkpoint.configuration();
  transformer<P, E> m(c, checkpoint.weights(), e);
  const index_t made = 8, longest = lengths.back() + made;
  const ids_t text = random_ids(longest, c.vocab_size, 77);
  outcome<E> all;

  // One sequence reads the text; at each length a fork answers.
  auto base = m.new_sequence(longest, deepest);
  mtp_drafter<P, E> seen(m, deepest, deepest);
  sampler reader(settings, c.vocab_size, longest);
  const auto go_on = [](std::int32_t) { return true; };
  for (const index_t n : lengths) {
    const index_t from = base.length();
    if (n - 1 > from)
      generate_speculative(m, base, std::span(text).subspan(std::size_t(from), std::size_t(n - 1 - from)),
                           {.max_new = 0}, reader, seen, 1, go_on);
    const std::span<const std::int32_t> last = std::span(text).subspan(std::size_t(n - 1), 1);

    ids_t plain, answer;
    const auto keep = [&](std::int32_t id) { return answer.push_back(id), true; };
    {
      auto fork = base;
      sampler choose = reader;
      generate(m, fork, last, {.max_new = made}, choose, keep);
      plain.swap(answer);
    }
    ids_t whole(text.begin(), text.begin() + n);
    whole.insert(whole.end(), plain.begin(), plain.end());
    for (index_t depth = 1; depth <= deepest; ++depth) {
      INFO(name << ": prompt of " << n << ", depth " << depth);
      const auto judge = [&](auto drafter) {
        auto fork = base;
        sampler choose = reader;
        answer.clear();
        const auto r = generate_speculative(m, fork, last, {.max_new = made}, choose, drafter, depth, keep);
        CHECK(answer == plain);
        CHECK(fork.length() == n + made - 1);
        CHECK(choose.state().ids.size() == (choose.remembers() ? std::size_t(n + made) : 0));
        for (index_t d = 0; d < depth; ++d) {
          all.proposed += r.drafts.proposed[std::size_t(d)];
          all.accepted += r.drafts.accepted[std::size_t(d)];
        }
        ++all.texts;
      };
      judge(seen);
      oracle_drafter<P> oracle(whole, c.vocab_size);
      oracle.random.state = std::uint64_t(n);
      judge(oracle);
    }
  }
  return all;
}

/// lengths: of prompts, greedy; empty: around every boundary.  penalised_lengths: with everything that looks at
/// earlier tokens; empty: the shortest and the longest.
template <execution E>
void on(const std::string& name, std::vector<index_t> lengths = {},
        std::vector<index_t> penalised_lengths = {}, E e = {}) {
  const auto dir = golden("official/" + name);
  if (!dir) {
    WARN("golden/official/" << name << " is not here (set DSV4_GOLDEN)");
    return;
  }
  const auto checkpoint = io::checkpoint::open(*dir);
  REQUIRE(checkpoint.configuration().num_nextn_predict_layers == 1);
  if (lengths.empty()) lengths = lengths_of(checkpoint.configuration());
  if (penalised_lengths.empty()) penalised_lengths = {lengths.front(), lengths.back()};
  const auto greedy = compare<E>(name, checkpoint, {}, lengths, e);
  CHECK(greedy.texts == 2 * deepest * static_cast<index_t>(lengths.size()));
  CHECK(greedy.accepted > greedy.proposed / 10);
  const auto constrained = compare<E>(name + ", penalties", checkpoint, penalised(), penalised_lengths, e);
  CHECK(constrained.accepted > constrained.proposed / 10);
}

constexpr const char* models[] = {"flash-mini", "base-mini", "edge-mini", "pro-mini", "real-ratio"};

}  // namespace

// Answers of 8 tokens after 3 cross 4 and the window of 8, after 12 the HCA block and 4 x top-k (16).
TEST_CASE("greedy with drafts is greedy without: exec::ref", "[speculative]") {
  on<exec::ref>("flash-mini", {3, 12}, {12});
  on<exec::ref>("base-mini", {12}, {3});
}
TEST_CASE("greedy with drafts is greedy without: exec::cpu", "[speculative]") {
  for (const char* name : models) on<exec::cpu>(name);
}
TEST_CASE("greedy with drafts is greedy without: exec::cpu_fast", "[speculative]") {
  for (const char* name : models) on<exec::cpu_fast>(name);
}
TEST_CASE("greedy with drafts is greedy without: one thread", "[speculative]") {
  on<exec::cpu>("flash-mini", {3, 12}, {12}, exec::cpu{1});
}

}  // namespace dsv4_test::conformance_speculative
