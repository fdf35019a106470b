// SPDX-License-Identifier: MIT
// Figures of a finished model: bits per byte, expert use, drafts; the trigram baseline and the held-out rule.
#include <dsv4/cpu/cpu.hpp>
#include <dsv4/trainer/held_out.hpp>
#include <dsv4/trainer/score.hpp>
#include <dsv4/trainer/trigram.hpp>

#include "catch.hpp"
#include "quantise_test.hpp"

namespace dsv4_test {
namespace {

using model_type = transformer<float32<double>, exec::ref>;

/// -ln P of row[from ...] given what stands before, by one forward call.
struct by_hand {
  double nats = 0;
  index_t tokens = 0;
  std::vector<std::int32_t> best;  // the model's likeliest token after each position
};
by_hand read(model_type& model, const std::vector<std::int32_t>& row, index_t from) {
  by_hand r;
  auto s = model.new_sequence(64);
  const index_t v = model.configuration().vocab_size, t = static_cast<index_t>(row.size()) - 1;
  tensor<double, 2> logits(t, v);
  model.forward(s, std::span(row).first(std::size_t(t)), logits.all());
  for (index_t j = 0; j < t; ++j) {
    double sum = 0;
    index_t best = 0;
    for (index_t i = 0; i < v; ++i) {
      sum += std::exp(logits(j, i));
      if (logits(j, i) > logits(j, best)) best = i;
    }
    r.best.push_back(static_cast<std::int32_t>(best));
    if (j + 1 < from) continue;
    r.nats += std::log(sum) - logits(j, row[std::size_t(j) + 1]);
    ++r.tokens;
  }
  return r;
}

}  // namespace

TEST_CASE("the held-out part begins a line and is the end of the text", "[train_quantise]") {
  const std::string text = "one\ntwo\nthree\nfour\n";
  const auto held_out = [&](double f) { return std::string(trainer::split_text(text, f).held_out); };
  CHECK(held_out(0) == "");
  CHECK(held_out(0.3) == "four\n");          // a cut inside of "three\n"
  CHECK(held_out(0.58) == "three\nfour\n");  // a cut just behind a line break stays
  CHECK(held_out(1) == text);
  CHECK(trainer::split_text("no line break", 0.5).held_out == "");
  CHECK(trainer::split_text("", 0.5).train == "");
  CHECK_THROWS_AS(trainer::split_text(text, 1.5), contract_violation);
  for (double f = 0; f <= 1; f += 0.01) {
    const auto [train, rest] = trainer::split_text(text, f);
    CHECK(std::string(train) + std::string(rest) == text);
    CHECK((train.empty() || train.back() == '\n'));
    CHECK(double(rest.size()) <= f * double(text.size()));
  }
}

TEST_CASE("the trigram model is a distribution in every context, and knows its text", "[train_quantise]") {
  const std::string text = "the cat sat on the mat, the dog sat on the log; that was that\n";
  const trainer::trigram m(text);
  for (const unsigned char u : {'t', 'z', '\n'})
    for (const unsigned char v : {'h', 'z', ' '}) {
      double sum = 0;
      for (int w = 0; w < 256; ++w) sum += m.probability(u, v, static_cast<unsigned char>(w));
      CHECK(sum == Catch::Approx(1).epsilon(1e-12));
    }
  CHECK(m.probability('t', 'h', 'e') > 0.5);
  CHECK(m.probability('x', 'y', 'z') > 0);
  CHECK(m.bits_per_byte(text) < 3);
  CHECK(
      m.bits_per_byte(text) ==
      Catch::Approx(-std::log2(m.probability('\n', '\n', 't')) / double(text.size()) +
                    m.bits_per_byte(text.substr(1), "\nt") * double(text.size() - 1) / double(text.size())));
  // By hand, "aab" after two line breaks: (nn a) (na a) (aa b) once each.  N(. v w) = 1 for (n a) (a a) (a b), each a
  // context's only trigram; n1 = 3, n2 = 0: D = 1, all goes to the shorter contexts.  N(. w): a 2, b 1; D1 = 1 / 3.
  const trainer::trigram small("aab");
  const double p1 = (2 - 1 / 3.0) / 3 + 1 / 3.0 * 2 / 3 / 256;
  CHECK(small.probability('\n', 'a', 'a') == Catch::Approx(p1).epsilon(1e-14));
  // Nothing known: uniform.
  CHECK(trainer::trigram("").bits_per_byte("anything") == 8);
}

TEST_CASE("score_text is forward() row by row, with and without a first token, with and without overlap",
          "[train_quantise]") {
  const random_model m(tiny_config(), all_f32);
  model_type model(m.c, m.weights);
  const std::vector<std::int32_t> ids = random_ids(53, m.c.vocab_size, 4);
  std::vector<std::int32_t> bytes(std::size_t(m.c.vocab_size));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::int32_t(i % 5);
  const auto part = [&](index_t from, index_t to) {
    return std::vector<std::int32_t>(ids.begin() + from, ids.begin() + to);
  };

  SECTION("rows of their own") {
    trainer::score_options o;
    o.length = 20;
    o.begin = 7;
    const trainer::text_score s = trainer::score_text(model, ids, bytes, o);
    double nats = 0;
    index_t all = 0;
    for (const auto& [from, to] : {std::pair<index_t, index_t>{0, 20}, {20, 40}, {40, 53}}) {
      auto row = part(from, to);
      row.insert(row.begin(), 7);
      nats += read(model, row, 1).nats;
    }
    for (const std::int32_t id : ids) all += bytes[std::size_t(id)];
    CHECK(s.nats == Catch::Approx(nats).epsilon(1e-12));
    CHECK((s.tokens == 53 && s.text_bytes == all));
    CHECK(s.bits_per_byte() == Catch::Approx(nats / std::log(2.0) / double(all)));
    // Experts: k of every token read, in each layer; MTP reads a pair less in each row.
    REQUIRE(s.load.size() == 5);
    for (std::size_t l = 0; l < 5; ++l) {
      index_t routed = 0;
      for (const index_t n : s.load[l]) routed += n;
      CHECK(routed == (l < 4 ? 53 : 50) * m.c.num_experts_per_tok);
      CHECK(trainer::load_imbalance(s.load[l]) >= 1);
    }
    CHECK(s.mtp_tokens == 50);
    CHECK((0 <= s.mtp_agrees && s.mtp_agrees <= 50));
    CHECK(std::isfinite(s.mtp_nats));
  }
  SECTION("no first token: a row's first one has no score") {
    trainer::score_options o;
    o.length = 20;
    const trainer::text_score s = trainer::score_text(model, ids, bytes, o);
    CHECK(s.tokens == 50);
    CHECK(s.nats == Catch::Approx(read(model, part(0, 20), 1).nats + read(model, part(20, 40), 1).nats +
                                  read(model, part(40, 53), 1).nats)
                        .epsilon(1e-12));
  }
  SECTION("overlap: every token once, after at least length - stride others") {
    for (const bool begin : {true, false}) {
      trainer::score_options o;
      o.length = 20;
      o.stride = 8;
      if (begin) o.begin = 7;
      const trainer::text_score s = trainer::score_text(model, ids, bytes, o);
      double nats = 0;
      index_t tokens = 0;
      for (index_t from = 0; from < 53;) {
        const index_t end = std::min<index_t>(53, from == 0 ? 20 : from + 8),
                      first = from == 0 ? 0 : from - 12;
        auto row = part(first, end);
        if (begin) row.insert(row.begin(), 7);
        const by_hand r = read(model, row, from - first + (begin ? 1 : from == 0 ? 1 : 0));
        nats += r.nats;
        tokens += r.tokens;
        from = end;
      }
      CHECK(s.tokens == tokens);
      CHECK(s.tokens == (begin ? 53 : 52));
      CHECK(s.nats == Catch::Approx(nats).epsilon(1e-12));
    }
  }
  SECTION("contract") {
    trainer::score_options o;
    o.length = 20;
    o.stride = 21;
    CHECK_THROWS_AS(trainer::score_text(model, ids, bytes, o), contract_violation);
  }
}

TEST_CASE("score_drafts counts the greedy drafts that are the model's own next token", "[train_quantise]") {
  const random_model m(tiny_config(), all_f32);
  model_type model(m.c, m.weights);
  const std::vector<std::int32_t> ids = random_ids(60, m.c.vocab_size, 4);
  trainer::draft_options o;
  o.prompts = 3;
  o.prompt_tokens = 10;
  o.max_new = 16;
  o.begin = 7;
  const trainer::draft_score s = trainer::score_drafts(model, ids, o);
  CHECK(s.prompts == 3);

  // By hand: continue greedily without drafts, then compare MTP's likeliest token wherever one was proposed.
  index_t proposed = 0, accepted = 0;
  for (index_t p = 0; p < 3; ++p) {
    const index_t at = p * 50 / 3;
    std::vector<std::int32_t> text(ids.begin() + at, ids.begin() + at + 10);
    text.insert(text.begin(), 7);
    const std::size_t prompt = text.size();
    for (int k = 0; k < 16; ++k) {
      auto row = text;
      row.push_back(0);
      text.push_back(read(model, row, 1).best.back());
    }
    auto seq = model.new_sequence(64);
    const index_t n = static_cast<index_t>(text.size());
    tensor<double, 2> logits(n, m.c.vocab_size);
    tensor<double, 3> streams(n, m.c.hc_mult, m.c.hidden_size);
    const model_type::input one{&seq, text};
    model.forward(std::span(&one, 1), {logits.all(), {}, streams.all()});
    const model_type::mtp_input_rows pairs{&seq, std::span(text).subspan(1), streams.all().rows(0, n - 1)};
    model.forward_mtp(std::span(&pairs, 1), logits.all().rows(0, n - 1));
    // Pair i drafts token i + 2.  The first draft is for the second new token; an accepted one gives the call's next
    // token too, which is not drafted.
    for (index_t made = 1; made < 15;) {
      const index_t pair = static_cast<index_t>(prompt) + made - 2;
      const view<const double, 1> row = logits[pair];
      const bool same =
          argmax(std::span<const double>(row.begin(), row.end())) == text[prompt + std::size_t(made)];
      ++proposed;
      accepted += same;
      made += same ? 2 : 1;
    }
  }
  CHECK(s.proposed == proposed);
  CHECK(s.accepted == accepted);
}

}  // namespace dsv4_test
