// SPDX-License-Identifier: MIT
// What a caller does with sequences: reset, fork, rewind (speculative decoding), batches of different
// lengths, MTP, and every way to misuse them.  Everything is compared bit for bit with a straight run.
#include "catch.hpp"
#include "executors.hpp"
#include "model_run.hpp"

namespace dsv4_test {
namespace {

using ids_t = std::vector<std::int32_t>;

ids_t part(const ids_t& ids, index_t from, index_t to) { return {ids.begin() + from, ids.begin() + to}; }
ids_t joined(ids_t a, const ids_t& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A model with MTP as a caller drives it: main logits, and MTP logits for the pairs known so far.
template <numerics_policy P, execution E>
struct speculator {
  runner<P, E> run;
  using sequence = typename runner<P, E>::sequence;
  using logits = typename runner<P, E>::logits;

  explicit speculator(const random_model& r) : run(r) {}

  struct result {
    logits main, mtp;
    tensor<act_t<P>, 3> streams;
  };

  /// The main model alone.
  result forward(sequence& s, const ids_t& ids) {
    const auto t = static_cast<index_t>(ids.size());
    tensor<wide_t<E>, 2> out(t, run.c().vocab_size);
    result r{{}, {}, tensor<act_t<P>, 3>(t, run.c().hc_mult, run.c().hidden_size)};
    const typename runner<P, E>::model::input in{&s, ids};
    run.m.forward(std::span(&in, 1), {out, {}, r.streams});
    r.main = run.finite(out);
    return r;
  }
  /// MTP on the pairs (streams, next), from mtp_length() on.
  logits forward_mtp(sequence& s, const ids_t& next, view<act_t<P>, 3> streams) {
    tensor<wide_t<E>, 2> out(static_cast<index_t>(next.size()), run.c().vocab_size);
    const typename runner<P, E>::model::mtp_input_rows pair{&s, next, streams};
    run.m.forward_mtp(std::span(&pair, 1), out);
    return run.finite(out);
  }
  /// Both over ids, where `next` follows the last one.
  result forward(sequence& s, const ids_t& ids, std::int32_t next) {
    result r = forward(s, ids);
    auto shifted = part(ids, 1, index_t(ids.size()));
    shifted.push_back(next);
    r.mtp = forward_mtp(s, shifted, r.streams);
    return r;
  }
};

}  // namespace

// ---- reset

TEMPLATE_TEST_CASE("(9) after reset a sequence is a fresh one", "[sequence]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  const auto a = random_ids(40, model.c.vocab_size, 21);
  for (const index_t used : {1, 2, 3, 5, 17, 40})
    for (const index_t length : {1, 2, 3, 4, 5, 20}) {
      const auto b = random_ids(length + 6, model.c.vocab_size, 22);
      auto s = run.m.new_sequence(40);
      run.forward(s, part(a, 0, used));
      s.reset();
      CHECK(s.length() == 0);
      INFO("after " << used << " tokens, a prompt of " << length);
      CHECK(same(run.forward(s, b, {length, 1}), run.fresh(b)));
    }
}

TEMPLATE_TEST_CASE("the same input twice gives the same bits", "[sequence]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  const auto ids = random_ids(30, model.c.vocab_size, 23);
  const auto first = run.fresh(ids);
  run.fresh(random_ids(25, model.c.vocab_size, 24), {3});  // scratch memory is full of something else
  CHECK(same(run.fresh(ids), first));
  runner<official, TestType> other(model);
  CHECK(same(other.fresh(ids), first));
}

TEMPLATE_TEST_CASE("an observer changes no bit", "[sequence]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  const auto ids = random_ids(30, model.c.vocab_size, 25);
  recorder seen;
  CHECK(same(run.fresh(ids, {4, 9}, seen), run.fresh(ids, {4, 9})));
}

// ---- fork

TEMPLATE_TEST_CASE("a copy is a fork: both go on alone", "[sequence]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  const auto ids = random_ids(36, model.c.vocab_size, 26), other = random_ids(36, model.c.vocab_size, 27);
  for (const index_t at : {0, 1, 3, 4, 7, 8, 15, 16, 18, 21}) {
    INFO("fork at " << at);
    auto s = run.m.new_sequence(36);
    if (at) run.forward(s, part(ids, 0, at));
    auto fork = s;
    CHECK(fork.length() == at);
    // Interleaved, so that shared memory would show.
    auto a = run.forward(s, part(ids, at, at + 5));
    auto b = run.forward(fork, part(other, at, at + 3));
    a.append(run.forward(s, part(ids, at + 5, 36), {3}));
    b.append(run.forward(fork, part(other, at + 3, 36), {2}));
    CHECK(same(a, run.fresh(ids).part(at, 36)));
    CHECK(same(b, run.fresh(joined(part(ids, 0, at), part(other, at, 36))).part(at, 36)));
    // Assignment and move.
    auto moved = std::move(fork);
    fork = s;
    CHECK(moved.length() == 36);
    CHECK(fork.length() == 36);
  }
}

// ---- rewind

TEMPLATE_TEST_CASE("rewind to any position and go on equals a straight run", "[sequence]",
                   DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  const auto ids = random_ids(60, model.c.vocab_size, 28), other = random_ids(60, model.c.vocab_size, 29);
  const index_t max_rewind = 18;  // further than a window, an HCA block and two CSA blocks
  for (const index_t length : {20, 33, 41})
    for (index_t back = 0; back <= max_rewind; ++back) {
      const index_t at = length - back, end = at + 7 + back % 3;
      auto s = run.m.new_sequence(60, max_rewind);
      run.forward(s, part(ids, 0, length), {length - back % 4, 1});
      s.rewind(at);
      CHECK(s.length() == at);
      const auto after = run.forward(s, part(other, at, end), {1 + back % 5});
      const auto straight = run.fresh(joined(part(ids, 0, at), part(other, at, end)));
      INFO("from " << length << " to " << at);
      CHECK(same(after, straight.part(at, end)));
    }
}

TEMPLATE_TEST_CASE("draft, accept some, rewind: speculative decoding equals a straight run", "[sequence]",
                   DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  const index_t n = 56;
  for (const index_t draft : {1, 4, 6}) {
    runner<official, TestType> run(model);
    const auto text = random_ids(n + draft, model.c.vocab_size, 30),
               wrong = random_ids(n + draft, model.c.vocab_size, 31);
    const auto straight = run.fresh(part(text, 0, n));
    auto s = run.m.new_sequence(n + draft, draft);
    integers r{32};
    while (s.length() < n) {
      // The first `good` tokens of the draft are right.
      const index_t at = s.length(), good = 1 + r.below(draft);
      const auto logits =
          run.forward(s, joined(part(text, at, at + good), part(wrong, at + good, at + draft)));
      const index_t kept = std::min(good, n - at);
      REQUIRE(same(logits.part(0, kept), straight.part(at, at + kept)));
      s.rewind(at + kept);
    }
    CHECK(s.length() == n);
  }
}

TEMPLATE_TEST_CASE("rewind a fork, rewind again, rewind to zero", "[sequence]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  const auto ids = random_ids(48, model.c.vocab_size, 33);
  const auto straight = run.fresh(ids);
  auto s = run.m.new_sequence(48, 9);
  run.forward(s, part(ids, 0, 30));
  auto fork = s;
  s.rewind(26);
  s.rewind(22);
  CHECK(same(run.forward(s, part(ids, 22, 48)), straight.part(22, 48)));
  fork.rewind(21);
  CHECK(same(run.forward(fork, part(ids, 21, 48), {2}), straight.part(21, 48)));
  // Zero is always possible, and the same as reset.
  s.rewind(0);
  CHECK(same(run.forward(s, ids, {11}), straight));
}

TEMPLATE_TEST_CASE("rewinding too far throws and changes nothing", "[sequence]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  const auto ids = random_ids(40, model.c.vocab_size, 34);
  const auto straight = run.fresh(ids);
  for (const index_t max_rewind : {0, 1, 5}) {
    auto s = run.m.new_sequence(40, max_rewind);
    run.forward(s, part(ids, 0, 30));
    CHECK_THROWS_AS(s.rewind(30 - max_rewind - 1), contract_violation);
    CHECK_THROWS_AS(s.rewind(31), contract_violation);
    CHECK_THROWS_AS(s.rewind(-1), contract_violation);
    CHECK(s.length() == 30);
    s.rewind(30 - max_rewind);
    // What was taken back counts from the longest the sequence has been: the rings have forgotten more.
    if (max_rewind < 30) CHECK_THROWS_AS(s.rewind(30 - max_rewind - 1), contract_violation);
    CHECK(same(run.forward(s, part(ids, 30 - max_rewind, 40)), straight.part(30 - max_rewind, 40)));
  }
}

// ---- MTP

TEMPLATE_TEST_CASE("MTP: chunks, rewind with the model and alone", "[sequence][mtp]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  speculator<official, TestType> both(model);
  const auto ids = random_ids(41, model.c.vocab_size, 35), other = random_ids(41, model.c.vocab_size, 36);
  auto fresh = both.run.m.new_sequence(41);
  const auto straight = both.forward(fresh, part(ids, 0, 40), ids[40]);
  CHECK(fresh.mtp_length() == 40);
  auto streams = straight.streams;
  CHECK(distance(straight.main, straight.mtp) > 1e-2);

  SECTION("chunks") {
    auto s = both.run.m.new_sequence(41);
    for (index_t p = 0, n; p < 40; p += n) {
      n = std::min<index_t>(1 + p % 7, 40 - p);
      const auto r = both.forward(s, part(ids, p, p + n), ids[std::size_t(p + n)]);
      CHECK(same(r.main, straight.main.part(p, p + n)));
      CHECK(same(r.mtp, straight.mtp.part(p, p + n)));
    }
  }
  SECTION("rewind takes MTP back, with the pair that saw a token taken back") {
    const index_t max_rewind = 12;
    for (index_t back = 1; back <= max_rewind; ++back) {
      INFO("back " << back);
      // 20 tokens of the text, then others that are all wrong; or a text that is right, taken back further.
      const index_t at = back <= 4 ? 20 : 24 - back, length = at + back;
      auto s = both.run.m.new_sequence(60, max_rewind);
      both.forward(s, joined(part(ids, 0, at), part(other, at, length)), other[std::size_t(length)]);
      s.rewind(at);
      CHECK(s.length() == at);
      CHECK(s.mtp_length() == at - 1);
      auto after = both.forward(s, part(ids, at, 40));
      CHECK(same(after.main, straight.main.part(at, 40)));
      // Pair at-1 again, now with the token that follows.
      auto mtp = both.forward_mtp(s, part(ids, at, at + 1), streams.all().rows(at - 1, at));
      mtp.append(both.forward_mtp(s, part(ids, at + 1, 41), after.streams));
      CHECK(same(mtp, straight.mtp.part(at - 1, 40)));
    }
  }
  SECTION("MTP that is behind stays where it is") {
    auto s = both.run.m.new_sequence(60, 12);
    auto main = both.forward(s, part(ids, 0, 20));
    both.forward_mtp(s, part(ids, 1, 11), main.streams.all().rows(0, 10));
    s.rewind(20);
    CHECK(s.mtp_length() == 10);
    s.rewind(11);
    CHECK(s.mtp_length() == 10);
    s.rewind(10);
    CHECK(s.mtp_length() == 9);
  }
  SECTION("rewind_mtp alone") {
    auto s = both.run.m.new_sequence(60, 12);
    auto first = both.forward(s, part(ids, 0, 20), other[20]);  // the last pair's next token is a guess
    s.rewind_mtp(19);
    CHECK(s.length() == 20);
    CHECK(s.mtp_length() == 19);
    CHECK_THROWS_AS(s.rewind_mtp(20), contract_violation);
    CHECK_THROWS_AS(s.rewind_mtp(6), contract_violation);
    CHECK(same(both.forward_mtp(s, part(ids, 20, 21), first.streams.all().rows(19, 20)),
               straight.mtp.part(19, 20)));
    s.rewind_mtp(7);
    CHECK(same(both.forward_mtp(s, part(ids, 8, 21), first.streams.all().rows(7, 20)),
               straight.mtp.part(7, 20)));
  }
}

TEMPLATE_TEST_CASE("MTP is window-only: plain rotary table, no compression", "[mtp]", DSV4_TEST_EXECUTORS) {
  const auto ids = random_ids(31, tiny_config().vocab_size, 37);
  const auto mtp_of = [&](auto change) {
    config c = tiny_config({4, 16});
    change(c);
    const random_model model(c);
    speculator<float32<float>, TestType> both(model);
    auto s = both.run.m.new_sequence(31);
    return both.forward(s, part(ids, 0, 30), ids[30]);
  };
  const auto right = mtp_of([](config&) {});
  const auto main_theta = mtp_of([](config& c) { c.rope_theta = 500; });
  CHECK(same(main_theta.main, right.main));  // no other layer of this model uses it
  CHECK(distance(main_theta.mtp, right.mtp) > 1e-3);
}

// ---- batches

TEMPLATE_TEST_CASE("a sequence in a batch has the bits it has alone", "[sequence][batch]",
                   DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  using input = typename runner<official, TestType>::model::input;
  const index_t vocab = model.c.vocab_size, n = 5;
  const index_t before[] = {0, 17, 15, 0, 8},
                now[] = {1, 1, 9, 33, 20};  // prefills, decodes, block boundaries
  std::vector<ids_t> ids;
  std::vector<typename runner<official, TestType>::sequence> sequences;
  std::vector<typename runner<official, TestType>::logits> alone;
  index_t total = 0;
  for (index_t i = 0; i < n; ++i) {
    ids.push_back(random_ids(before[i] + now[i], vocab, 40 + std::uint64_t(i)));
    alone.push_back(run.fresh(ids.back()).part(before[i], before[i] + now[i]));
    sequences.push_back(run.m.new_sequence(before[i] + now[i]));
    if (before[i]) run.forward(sequences.back(), part(ids.back(), 0, before[i]), {3});
    total += now[i];
  }
  for (const std::vector<index_t>& order :
       {std::vector<index_t>{0, 1, 2, 3, 4}, std::vector<index_t>{3, 1, 4, 0, 2}}) {
    auto own = sequences;  // forks
    std::vector<ids_t> text;
    std::vector<input> batch;
    for (const index_t i : order) text.push_back(part(ids[std::size_t(i)], before[i], before[i] + now[i]));
    for (std::size_t k = 0; k < order.size(); ++k) batch.push_back({&own[std::size_t(order[k])], text[k]});
    tensor<wide_t<TestType>, 2> logits(total, vocab), last(n, vocab);
    tensor<bf16, 3> streams(total, model.c.hc_mult, model.c.hidden_size);
    recorder seen;
    seen.sequence = 2;
    run.m.forward(batch, {logits, last, streams}, seen);
    const auto all = run.finite(logits), ends = run.finite(last);
    index_t row = 0;
    for (std::size_t k = 0; k < order.size(); ++k) {
      const index_t i = order[k];
      INFO("sequence " << i << " in place " << k);
      CHECK(same(all.part(row, row + now[i]), alone[std::size_t(i)]));
      CHECK(same(ends.part(index_t(k), index_t(k) + 1), alone[std::size_t(i)].part(now[i] - 1, now[i])));
      CHECK(own[std::size_t(i)].length() == before[i] + now[i]);
      if (k == 2) {
        // The streams are the last layer's, in the rows of the sequence.
        const auto& out = seen.at("layers.3.out");
        CHECK(out.rows() == now[i]);
        bool equal = true;
        for (index_t t = 0; t < now[i]; ++t)
          for (index_t d = 0; d < out.width; ++d)
            equal = equal && out(t, d) == to_double(streams[row + t].data()[d]);
        CHECK(equal);
      }
      row += now[i];
    }
  }
}

TEMPLATE_TEST_CASE("a batch goes on together, token by token", "[sequence][batch]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<float32<float>, TestType> run(model);
  const auto a = random_ids(30, model.c.vocab_size, 51), b = random_ids(30, model.c.vocab_size, 52);
  const auto alone_a = run.fresh(a), alone_b = run.fresh(b);
  auto s = run.m.new_sequence(30), u = run.m.new_sequence(30);
  run.forward(u, part(b, 0, 7));
  tensor<wide_t<TestType>, 2> logits(2, model.c.vocab_size);
  for (index_t t = 0; t < 23; ++t) {
    const auto one = part(a, t, t + 1), two = part(b, 7 + t, 8 + t);
    const typename runner<float32<float>, TestType>::model::input batch[] = {{&s, one}, {&u, two}};
    run.m.forward(batch, {logits, {}});
    const auto both = run.finite(logits);
    REQUIRE(same(both.part(0, 1), alone_a.part(t, t + 1)));
    REQUIRE(same(both.part(1, 2), alone_b.part(7 + t, 8 + t)));
  }
}

TEMPLATE_TEST_CASE("MTP in a batch", "[sequence][batch][mtp]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  speculator<official, TestType> both(model);
  auto& m = both.run.m;
  using model_type = typename runner<official, TestType>::model;
  const index_t vocab = model.c.vocab_size;
  const auto a = random_ids(13, vocab, 53), b = random_ids(22, vocab, 54);
  auto s = m.new_sequence(13), u = m.new_sequence(22), s1 = m.new_sequence(13), u1 = m.new_sequence(22);
  const auto alone_a = both.forward(s1, part(a, 0, 12), a[12]),
             alone_b = both.forward(u1, part(b, 0, 21), b[21]);
  tensor<wide_t<TestType>, 2> logits(33, vocab);
  tensor<bf16, 3> streams(33, model.c.hc_mult, model.c.hidden_size);
  const auto text_a = part(a, 0, 12), text_b = part(b, 0, 21), next_a = part(a, 1, 13),
             next_b = part(b, 1, 22);
  const typename model_type::input batch[] = {{&s, text_a}, {&u, text_b}};
  m.forward(batch, {{}, {}, streams});  // no logits asked for
  const typename model_type::mtp_input_rows pairs[] = {{&s, next_a, streams.all().rows(0, 12)},
                                                       {&u, next_b, streams.all().rows(12, 33)}};
  m.forward_mtp(pairs, logits);
  const auto all = both.run.finite(logits);
  CHECK(same(all.part(0, 12), alone_a.mtp));
  CHECK(same(all.part(12, 33), alone_b.mtp));
}

TEMPLATE_TEST_CASE("a call without tokens, and a sequence without tokens in a batch", "[sequence][batch]",
                   DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  const auto ids = random_ids(20, model.c.vocab_size, 55);
  const auto straight = run.fresh(ids);
  auto s = run.m.new_sequence(20), idle = run.m.new_sequence(20);
  run.forward(idle, part(ids, 0, 9));
  using input = typename runner<official, TestType>::model::input;
  run.m.forward(std::span<const input>(), {});
  const input none{&s, {}};
  run.m.forward(std::span(&none, 1), {});
  CHECK(s.length() == 0);
  tensor<wide_t<TestType>, 2> logits(20, model.c.vocab_size);
  for (const bool first : {false, true}) {
    auto own = s;
    const input with{&own, ids}, without{&idle, {}};
    const input batch[] = {first ? without : with, first ? with : without};
    run.m.forward(batch, {logits, {}});
    CHECK(same(run.finite(logits), straight));
    CHECK(idle.length() == 9);
  }
  CHECK(same(run.forward(idle, part(ids, 9, 20)), straight.part(9, 20)));
}

// ---- misuse

TEMPLATE_TEST_CASE("misuse throws contract_violation, and the sequence goes on as if nothing had been",
                   "[sequence][error]", DSV4_TEST_EXECUTORS) {
  using Catch::Matchers::ContainsSubstring;
  const random_model model(tiny_config());
  runner<official, TestType> run(model);
  auto& m = run.m;
  using model_type = typename runner<official, TestType>::model;
  using input = typename model_type::input;
  using pair = typename model_type::mtp_input_rows;
  const index_t vocab = model.c.vocab_size, n = model.c.hc_mult, d = model.c.hidden_size;
  const auto ids = random_ids(24, vocab, 56);
  const auto straight = run.fresh(ids);
  auto s = m.new_sequence(24);
  auto other = m.new_sequence(24);
  run.forward(s, part(ids, 0, 10));

  tensor<wide_t<TestType>, 2> one(1, vocab), two(2, vocab), narrow(1, vocab - 1);
  tensor<bf16, 3> streams(1, n, d), few(1, n - 1, d), thin(1, n, d / 2);
  const auto call = [&](ids_t text) {
    tensor<wide_t<TestType>, 2> out(index_t(text.size()), vocab);
    m.forward(s, text, out);
  };
  // ids outside the vocabulary, also behind good ones
  CHECK_THROWS_AS(call({-1}), contract_violation);
  CHECK_THROWS_AS(call({std::int32_t(vocab)}), contract_violation);
  CHECK_THROWS_AS(call({0, 1, 2147483647}), contract_violation);
  CHECK_THROWS_WITH(call({48}), ContainsSubstring("48") && ContainsSubstring("vocabulary"));
  // beyond max_tokens
  CHECK_THROWS_AS(call(random_ids(15, vocab, 57)), contract_violation);
  CHECK_THROWS_WITH(call(random_ids(15, vocab, 57)),
                    ContainsSubstring("24") && ContainsSubstring("max_tokens"));
  // beyond the model's context
  CHECK_THROWS_AS(m.new_sequence(1025), contract_violation);
  CHECK_THROWS_WITH(m.new_sequence(1025), ContainsSubstring("1024"));
  CHECK_THROWS_AS(m.new_sequence(-1), contract_violation);
  CHECK_THROWS_AS(m.new_sequence(10, -1), contract_violation);
  CHECK_NOTHROW(m.new_sequence(1024));
  // the same sequence twice, none at all
  const auto next = part(ids, 10, 11);
  const input twice[] = {{&s, next}, {&s, next}}, null[] = {{nullptr, next}}, good[] = {{&s, next}},
              bad_neighbour[] = {{&other, next}, {&s, ids}};
  CHECK_THROWS_AS(m.forward(twice, {two, {}}), contract_violation);
  CHECK_THROWS_AS(m.forward(null, {one, {}}), contract_violation);
  CHECK_THROWS_AS(m.forward(bad_neighbour, {{}, {}}), contract_violation);
  CHECK(other.length() == 0);
  // outputs of the wrong shape
  CHECK_THROWS_AS(m.forward(good, {two, {}}), contract_violation);
  CHECK_THROWS_AS(m.forward(good, {narrow, {}}), contract_violation);
  CHECK_THROWS_AS(m.forward(good, {{}, two}), contract_violation);
  CHECK_THROWS_AS(m.forward(good, {{}, narrow}), contract_violation);
  CHECK_THROWS_AS(m.forward(good, {{}, {}, few}), contract_violation);
  CHECK_THROWS_AS(m.forward(good, {{}, {}, thin}), contract_violation);
  // a sequence that no model made, or another model did
  typename model_type::sequence_type nobody;
  const input strange[] = {{&nobody, {}}, {&other, next}};
  CHECK_THROWS_AS(m.forward(strange, {one, {}}), contract_violation);
  const random_model small(tiny_config({0}));
  runner<official, TestType> another(small);
  auto foreign = another.m.new_sequence(24);
  const input guest[] = {{&foreign, next}};
  CHECK_THROWS_AS(m.forward(guest, {one, {}}), contract_violation);
  // … of as many layers, but with memory of other sizes
  const auto of_changed = [&](auto change) {
    config changed = m.configuration();
    change(changed);
    return typename model_type::sequence_type(changed, 24, 0);
  };
  typename model_type::sequence_type almost[] = {
      of_changed([](config& c) { c.head_dim *= 2; }), of_changed([](config& c) { c.sliding_window -= 1; }),
      of_changed([](config& c) { c.index_head_dim *= 2; }),
      of_changed([](config& c) { std::swap(c.compress_ratios[0], c.compress_ratios[1]); })};
  for (auto& a : almost) {
    const input stranger[] = {{&a, next}};
    CHECK_THROWS_AS(m.forward(stranger, {one, {}}), contract_violation);
  }
  // MTP
  const pair short_pair[] = {{&s, ids, streams}}, few_pair[] = {{&s, next, few}},
             thin_pair[] = {{&s, next, thin}};
  CHECK_THROWS_AS(m.forward_mtp(short_pair, typename model_type::output{}), contract_violation);
  CHECK_THROWS_AS(m.forward_mtp(few_pair, one), contract_violation);
  CHECK_THROWS_AS(m.forward_mtp(thin_pair, one), contract_violation);
  CHECK(s.mtp_length() == 0);
  config without = tiny_config({0});
  without.num_nextn_predict_layers = 0;
  const random_model plain(without);
  runner<official, TestType> no_mtp(plain);
  auto of_plain = no_mtp.m.new_sequence(4);
  const pair unsupported_pair[] = {{&of_plain, next, streams}};
  CHECK_THROWS_AS(no_mtp.m.forward_mtp(unsupported_pair, one), unsupported);

  CHECK(s.length() == 10);
  CHECK(same(run.forward(s, part(ids, 10, 24)), straight.part(10, 24)));
}

TEMPLATE_TEST_CASE("a model refuses weights that are not its own", "[error]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  config more = model.c;
  more.num_hidden_layers = 5;
  CHECK_THROWS_AS((runner<official, TestType>(more, model.weights)), contract_violation);
  config fewer = model.c;
  fewer.compress_ratios = {0, 4, 16, 4};
  CHECK_THROWS_AS((runner<official, TestType>(fewer, model.weights)), contract_violation);
}

}  // namespace dsv4_test
