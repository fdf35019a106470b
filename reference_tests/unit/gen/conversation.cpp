// SPDX-License-Identifier: MIT
// Conversations: numbers in brackets are the postconditions of gen/conversation.hpp.
#include <unistd.h>

#include <dsv4/cpu/cpu.hpp>
#include <dsv4/gen/conversation.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "catch.hpp"
#include "random_model.hpp"

namespace dsv4::gen_conversation {
namespace {

using dsv4_test::random_ids;
using dsv4_test::random_model;
using dsv4_test::tiny_config;
using ids_type = std::vector<std::int32_t>;
using model_type = transformer<official, exec::cpu>;

constexpr index_t longest = 320;

struct fixture {
  random_model weights{tiny_config()};
  model_type model{weights.c, weights.weights, exec::cpu{2}};

  /// What a fresh sequence answers.
  ids_type fresh(const ids_type& ids, index_t tokens, const sampling& s = {}) {
    auto sequence = model.new_sequence(longest);
    sampler choose(s, weights.c.vocab_size, longest);
    ids_type out;
    generate(model, sequence, std::span<const std::int32_t>(ids), {.max_new = tokens}, choose,
             [&](std::int32_t id) {
               out.push_back(id);
               return true;
             });
    return out;
  }
  ids_type answer(conversation<official, exec::cpu>& c, const ids_type& ids, index_t tokens,
                  const sampling& s = {}) {
    sampler choose(s, weights.c.vocab_size, longest);
    ids_type out;
    c.answer(ids, {.max_new = tokens}, choose, [&](std::int32_t id) {
      out.push_back(id);
      return true;
    });
    return out;
  }
  ids_type random(index_t n, std::uint64_t seed) const { return random_ids(n, weights.c.vocab_size, seed); }
};

ids_type operator+(ids_type a, const ids_type& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
ids_type first(const ids_type& v, std::size_t n) { return {v.begin(), v.begin() + static_cast<long>(n)}; }

}  // namespace

TEST_CASE("conversation: answers are those of a fresh sequence, only what is new is read [1]",
          "[conversation]") {
  fixture f;
  const index_t depth = GENERATE(0, 1, 3);
  CAPTURE(depth);
  conversation<official, exec::cpu> c(f.model, longest, depth);

  // The first question.
  ids_type said = f.random(37, 1);
  ids_type a = f.answer(c, said, 12);
  CHECK(a == f.fresh(said, 12));
  CHECK(c.reused() == 0);
  CHECK(c.ids().size() == said.size() + a.size() - 1);

  // Append-only: all that was read is used again.
  said = said + a + f.random(9, 2);
  a = f.answer(c, said, 12);
  CHECK(a == f.fresh(said, 12));
  CHECK(c.reused() == 37 + 11);

  // The answer is written otherwise: what was read up to the end of the question is used again …
  const auto question_end = said.size() - 1;
  said = first(said, question_end) + f.random(20, 3);
  a = f.answer(c, said, 7);
  CHECK(a == f.fresh(said, 7));
  CHECK(c.reused() == static_cast<index_t>(question_end));

  // … and from the same question again: only its last token is read.
  CHECK(f.answer(c, said, 7) == a);
  CHECK(c.reused() == static_cast<index_t>(said.size()) - 1);

  // The beginning is another: everything is read.
  said[0] = (said[0] + 1) % static_cast<std::int32_t>(f.weights.c.vocab_size);
  CHECK(f.answer(c, said, 7) == f.fresh(said, 7));
  CHECK(c.reused() == 0);

  // After a long answer, which the drafter's memory of the question does not outlive: still from the mark.
  conversation<official, exec::cpu> talkative(f.model, 3 * longest, depth);
  said = f.random(20, 5);
  f.answer(talkative, said, 2 * longest);
  said.insert(said.end(), {1, 2, 3});
  CHECK(f.answer(talkative, said, 6) == f.fresh(said, 6));
  CHECK(talkative.reused() == 19);

  c.reset();
  CHECK(c.ids().empty());
  CHECK(f.answer(c, f.random(1, 4), 5) == f.fresh(f.random(1, 4), 5));
}

TEST_CASE("conversation: a sampler that looks back sees the whole conversation [1]", "[conversation]") {
  fixture f;
  const sampling s{.temperature = 1, .seed = 5, .repetition_penalty = 1.3, .presence_penalty = 0.2};
  conversation<official, exec::cpu> c(f.model, longest);
  ids_type said = f.random(30, 6);
  said = said + f.answer(c, said, 10, s) + f.random(5, 7);
  CHECK(f.answer(c, said, 10, s) == f.fresh(said, 10, s));
  CHECK(c.reused() > 0);
}

TEST_CASE("conversation: a callback that throws loses nothing that was read [2]", "[conversation]") {
  fixture f;
  const index_t depth = GENERATE(0, 2);
  conversation<official, exec::cpu> c(f.model, 2 * prefill_chunk + 200, depth);
  const ids_type said = f.random(prefill_chunk + 40, 8);
  sampler choose({}, f.weights.c.vocab_size);
  struct stop {};
  const generate_options after_a_chunk{
      .max_new = 4, .stop_ids = {}, .on_prefill = [](index_t, index_t) { throw stop(); }};
  CHECK_THROWS_AS(c.answer(said, after_a_chunk, choose, [](std::int32_t) { return true; }), stop);
  CHECK(c.ids().size() == static_cast<std::size_t>(prefill_chunk));

  // Three tokens are made and the third is not heard; then the same question.
  int heard = 0;
  CHECK_THROWS_AS(c.answer(said, {.max_new = 8}, choose,
                           [&](std::int32_t) {
                             if (++heard == 3) throw stop();
                             return true;
                           }),
                  stop);
  CHECK(c.reused() == prefill_chunk);
  ids_type a;
  c.answer(said, {.max_new = 8}, choose, [&](std::int32_t id) {
    a.push_back(id);
    return true;
  });
  conversation<official, exec::cpu> fresh(f.model, 2 * prefill_chunk + 200);
  ids_type b;
  fresh.answer(said, {.max_new = 8}, choose, [&](std::int32_t id) {
    b.push_back(id);
    return true;
  });
  CHECK(a == b);
  CHECK(c.reused() == static_cast<index_t>(said.size()) - 1);
}

TEST_CASE("conversation: after a throw in an answer, the next question goes on from what was heard [2]",
          "[conversation]") {
  fixture f;
  const index_t depth = GENERATE(0, 2);
  const auto file = std::filesystem::temp_directory_path() / ("dsv4-thrown-" + std::to_string(getpid()));
  struct stop {};
  for (std::size_t at = 1; at <= 6; ++at) {
    CAPTURE(depth, at);
    conversation<official, exec::cpu> c(f.model, longest, depth);
    sampler choose({}, f.weights.c.vocab_size);
    ids_type said = f.random(21, 12), heard;
    CHECK_THROWS_AS(c.answer(said, {.max_new = 12}, choose,
                             [&](std::int32_t id) {
                               heard.push_back(id);
                               if (heard.size() == at) throw stop();
                               return true;
                             }),
                    stop);
    CHECK(heard == first(f.fresh(said, 12), at));
    c.save(file, identity_of(f.model), choose, "");
    said = said + heard + f.random(3, 13);
    CHECK(f.answer(c, said, 8) == f.fresh(said, 8));
    CHECK(c.reused() >= 21);
  }
  std::filesystem::remove(file);
}

TEST_CASE("conversation: saved without drafts, loaded into a used one with drafts", "[conversation]") {
  fixture f;
  const auto file = std::filesystem::temp_directory_path() / ("dsv4-other-depth-" + std::to_string(getpid()));
  const state_identity identity = identity_of(f.model);
  sampler choose({}, f.weights.c.vocab_size);
  conversation<official, exec::cpu> plain(f.model, 3 * longest), used(f.model, 3 * longest, 1);
  ids_type said = f.random(200, 14);
  said = said + f.answer(plain, said, 3);
  plain.save(file, identity, choose, "");
  f.answer(used, f.random(220, 15), 5);  // longer than the saved one, and within the drafter's memory
  used.load(file, identity, choose);
  said = said + f.random(90, 16);
  CHECK(f.answer(used, said, 8) == f.fresh(said, 8));
  std::filesystem::remove(file);
}

TEST_CASE("conversation: saved, loaded, continued", "[conversation]") {
  fixture f;
  const index_t depth = GENERATE(0, 2);
  const auto file =
      std::filesystem::temp_directory_path() / ("dsv4-conversation-" + std::to_string(getpid()));
  const sampling s{.temperature = 1, .seed = 11};
  const state_identity identity = identity_of(f.model);
  const auto take = [&](conversation<official, exec::cpu>& c, sampler& choose, const ids_type& ids) {
    ids_type out;
    c.answer(ids, {.max_new = 9}, choose, [&](std::int32_t id) {
      out.push_back(id);
      return true;
    });
    return out;
  };

  conversation<official, exec::cpu> c(f.model, longest, depth);
  sampler choose(s, f.weights.c.vocab_size);
  ids_type said = f.random(33, 9);
  said = said + take(c, choose, said) + f.random(4, 10);
  c.save(file, identity, choose, "mine");
  const ids_type expected = take(c, choose, said);

  conversation<official, exec::cpu> again(f.model, longest, depth);
  sampler fresh(s, f.weights.c.vocab_size);
  CHECK(again.load(file, identity, fresh) == "mine");
  CHECK(take(again, fresh, said) == expected);
  CHECK(again.reused() == 33 + 8);
  std::filesystem::remove(file);
}

}  // namespace dsv4::gen_conversation
