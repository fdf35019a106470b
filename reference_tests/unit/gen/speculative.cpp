// SPDX-License-Identifier: MIT
// Speculative decoding on tiny models: numbers in brackets are the postconditions of gen/speculative.hpp.
// reference_tests/conformance/speculative.cpp runs the golden models.
#include <map>
#include <numeric>

#include "catch.hpp"
#include "drafters.hpp"

namespace dsv4_test::gen_speculative {
namespace {

using ids_t = std::vector<std::int32_t>;
using P = float32<double>;
using E = exec::ref;
using model_type = transformer<P, E>;
using drafter_type = mtp_drafter<P, E>;

/// A vocabulary small enough to try every text.
config enumerable(index_t vocabulary) {
  config c = tiny_config({4, 8}, 4);
  c.vocab_size = vocabulary;
  c.index_topk = 2;
  return c;
}

// ---- every random choice

/// Stands in for a sampler and takes, run after run, every way its random choices can go.  `weight` is the
/// probability of the way it took.
class enumerator {
 public:
  explicit enumerator(sampler& base) : base_(base) {}

  /// To the next way; false when all have been taken.
  bool advance() {
    base_.restore({});
    at_ = 0;
    weight = 1;
    while (!path_.empty() && path_.back().taken + 1 == path_.back().ways) path_.pop_back();
    if (path_.empty()) return std::exchange(fresh_, false);
    ++path_.back().taken;
    return true;
  }
  double weight = 1;

  void begin(index_t length, std::span<const std::int32_t> prompt) { base_.begin(length, prompt); }
  void remember(std::int32_t id) { base_.remember(id); }
  void forget() { base_.forget(); }
  template <class T>
  void next(view<const T, 1> logits, distribution& p) {
    base_.next(logits, p);
  }
  bool chance(double probability) {
    const double yes = std::clamp(probability, 0.0, 1.0);
    return choose({yes, 1 - yes}) == 0;
  }
  std::int32_t pick(const distribution& p) {
    std::vector<double> all;
    for (std::int32_t i = 0; i < p.size(); ++i) all.push_back(p[i]);
    return static_cast<std::int32_t>(choose(all));
  }
  template <class T>
  std::int32_t operator()(view<const T, 1> logits) {
    distribution p(logits.extent(0));
    next(logits, p);
    const std::int32_t id = pick(p);
    remember(id);
    return id;
  }

 private:
  struct fork {
    std::size_t taken, ways;
  };
  std::size_t choose(const std::vector<double>& probabilities) {
    std::vector<std::size_t> possible;
    for (std::size_t i = 0; i < probabilities.size(); ++i)
      if (probabilities[i] > 0) possible.push_back(i);
    if (at_ == path_.size()) path_.push_back({0, possible.size()});
    const std::size_t i = possible[path_[at_++].taken];
    weight *= probabilities[i];
    return i;
  }

  sampler& base_;
  std::vector<fork> path_;
  std::size_t at_ = 0;
  bool fresh_ = true;
};

using joint = std::map<ids_t, double>;

/// The chain rule: p(t1) p(t2 | t1) … of the model, one call per text.
void chain(model_type& m, sampler& s, const ids_t& prompt, index_t n, const ids_t& said, double weight,
           joint& out) {
  if (static_cast<index_t>(said.size()) == n) {
    out[said] += weight;
    return;
  }
  ids_t text = prompt;
  text.insert(text.end(), said.begin(), said.end());
  auto sequence = m.new_sequence(static_cast<index_t>(text.size()));
  tensor<double, 2> logits(static_cast<index_t>(text.size()), m.configuration().vocab_size);
  m.forward(sequence, text, logits);
  s.restore({});
  s.begin(0, text);
  distribution p(logits.extent(1));
  s.next(view<const double, 1>(logits[logits.extent(0) - 1]), p);
  for (std::int32_t id = 0; id < p.size(); ++id) {
    if (p[id] == 0) continue;
    ids_t more = said;
    more.push_back(id);
    chain(m, s, prompt, n, more, weight * p[id], out);
  }
}

double largest_difference(const joint& a, const joint& b) {
  double worst = 0;
  for (const auto& [text, p] : a) worst = std::max(worst, std::fabs(p - (b.count(text) ? b.at(text) : 0)));
  for (const auto& [text, p] : b) worst = std::max(worst, a.count(text) ? 0 : p);
  return worst;
}

/// All ways through the real loop, with a drafter made fresh for each.
template <class MakeDrafter>
joint all_ways(model_type& m, sampler& s, const ids_t& prompt, index_t n, index_t depth, MakeDrafter make,
               index_t& ways) {
  joint out;
  enumerator every(s);
  ways = 0;
  while (every.advance()) {
    auto sequence = m.new_sequence(static_cast<index_t>(prompt.size()) + n, depth);
    auto drafter = make();
    ids_t text;
    generate_speculative(m, sequence, prompt, {.max_new = n}, every, drafter, depth, [&](std::int32_t id) {
      text.push_back(id);
      return true;
    });
    out[text] += every.weight;
    ++ways;
  }
  return out;
}

constexpr double rounding = 1e-13;  // of sums of a few hundred products of probabilities

std::vector<sampling> settings_to_try() {
  sampling penalties{
      .temperature = 1.2, .repetition_penalty = 1.5, .frequency_penalty = 0.3, .penalty_window = 4};
  penalties.bias = {{1, 0.7}};
  sampling constrained{.temperature = 1};
  constrained.constrain = [](std::span<const std::int32_t> ids, std::span<double> x) {
    x[static_cast<std::size_t>(ids.back())] = -HUGE_VAL;  // never twice the same
  };
  return {{.temperature = 1.5},
          {.temperature = 1, .top_p = 0.8},
          {.temperature = 2, .top_k = 2},
          penalties,
          constrained};
}

}  // namespace

TEST_CASE("a judged draft has the model's distribution, whatever the draft's", "[speculative]") {
  ranking order(6);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    integers r{seed};
    distribution p(6), q(6);
    for (distribution* d : {&p, &q}) {
      std::vector<double> x(6);
      for (double& v : x) v = r.below(5) == 0 ? -HUGE_VAL : 3 * static_cast<double>(r.unit());
      x[static_cast<std::size_t>(r.below(6))] = 0.5;
      d->assign(x, {.temperature = r.below(6) == 0 ? 0.0 : 1.0}, order);
    }
    // Sum over the draft x, over keeping it, over its replacement.
    sampler none({}, 6);
    enumerator every(none);
    std::vector<double> out(6);
    while (every.advance()) {
      distribution spoilt = p;
      const std::int32_t x = every.pick(q);
      const draft_judgement v = judge(every, spoilt, x, q);
      CHECK(v.accepted == (v.id == x));
      out[static_cast<std::size_t>(v.id)] += every.weight;
    }
    for (std::int32_t i = 0; i < 6; ++i) CHECK(std::fabs(out[static_cast<std::size_t>(i)] - p[i]) < 1e-15);
  }
}

TEST_CASE("(2) every way through the loop, weighted, gives the model's joint distribution", "[speculative]") {
  struct size {
    index_t vocabulary, depth, made;
    bool brief;  // the first settings and MTP alone: a thousand ways and more
  };
  for (const auto& [vocabulary, depth, made, brief] :
       {size{8, 1, 3, true}, size{4, 1, 3, false}, size{3, 2, 4, true}, size{2, 3, 5, true}}) {
    const random_model weights(enumerable(vocabulary), all_f32, 5);
    model_type m(weights.c, weights.weights);
    const ids_t prompt = random_ids(5, vocabulary, 8);
    for (const sampling& settings : settings_to_try()) {
      sampler s(settings, vocabulary);
      joint expected;
      chain(m, s, prompt, made, {}, 1, expected);
      index_t ways = 0;
      INFO("vocabulary " << vocabulary << " depth " << depth << " temperature " << settings.temperature
                         << " top_k " << settings.top_k);
      const auto mtp =
          all_ways(m, s, prompt, made, depth, [&] { return drafter_type(m, depth, depth); }, ways);
      CHECK(ways > static_cast<index_t>(expected.size()));
      CHECK(largest_difference(mtp, expected) < rounding);
      if (brief) break;
      const auto greedy = all_ways(
          m, s, prompt, made, depth, [&] { return drafter_type(m, depth, depth, draft_choice::greedy); },
          ways);
      CHECK(largest_difference(greedy, expected) < rounding);
      const auto stranger =
          all_ways(m, s, prompt, made, depth, [&] { return stranger_drafter<P>(vocabulary); }, ways);
      CHECK(largest_difference(stranger, expected) < rounding);
    }
  }
}

TEST_CASE("(2) texts of many seeds fit the model's distribution", "[speculative]") {
  const index_t vocabulary = 4, made = 3, depth = 2, runs = 1500;
  const random_model weights(enumerable(vocabulary), all_f32, 6);
  model_type m(weights.c, weights.weights);
  const ids_t prompt = random_ids(4, vocabulary, 9);
  const sampling settings{.temperature = 2, .presence_penalty = 0.5};
  sampler s(settings, vocabulary);
  joint expected;
  chain(m, s, prompt, made, {}, 1, expected);
  std::map<ids_t, index_t> found;
  drafter_type drafter(m, depth, depth);
  index_t accepted = 0;
  for (std::uint64_t seed = 0; seed < static_cast<std::uint64_t>(runs); ++seed) {
    sampling seeded = settings;
    seeded.seed = seed;
    sampler choose(seeded, vocabulary);
    auto sequence = m.new_sequence(8, depth);
    ids_t text;
    const auto r = generate_speculative(m, sequence, prompt, {.max_new = made}, choose, drafter, depth,
                                        [&](std::int32_t id) {
                                          text.push_back(id);
                                          return true;
                                        });
    accepted += std::accumulate(r.drafts.accepted.begin(), r.drafts.accepted.end(), index_t{0});
    ++found[text];
  }
  // chi-square over the texts that are expected 5 times or more, the rest in one cell.
  double chi = 0, rest_expected = 0;
  index_t cells = 0, rest_found = runs;
  for (const auto& [text, p] : expected) {
    const double e = p * static_cast<double>(runs);
    if (e < 5) {
      rest_expected += e;
      continue;
    }
    const double o = static_cast<double>(found[text]);
    chi += (o - e) * (o - e) / e;
    rest_found -= found[text];
    ++cells;
  }
  if (rest_expected > 0) chi += std::pow(static_cast<double>(rest_found) - rest_expected, 2) / rest_expected;
  // Mean f, deviation sqrt(2 f), f = cells: four deviations.
  const double f = static_cast<double>(cells);
  INFO(cells << " texts, chi-square " << chi << ", accepted " << accepted);
  CHECK(cells > 20);
  CHECK(chi < f + 4 * std::sqrt(2 * f));
  CHECK(accepted > runs / 10);
}

// ---- greedy, and what is left behind

namespace {

/// A generation, and everything it leaves.
struct run_result {
  ids_t ids;
  speculative_generation told;
  index_t length = 0;
  std::vector<double> after;  // logits of a further token
};
template <class Model, class Sequence>
void look_after(Model& m, Sequence& s, run_result& r) {
  r.length = s.length();
  tensor<double, 2> logits(1, m.configuration().vocab_size);
  const std::int32_t one = 1;
  m.forward(s, std::span(&one, 1), logits);
  r.after.assign(logits.data(), logits.data() + logits.size());
  s.rewind(r.length);
}

}  // namespace

TEST_CASE("(1)(3) stops, limits and the state left are those of generate", "[speculative]") {
  const random_model weights(tiny_config());
  const index_t vocabulary = weights.c.vocab_size, depth = 3;
  transformer<official, E> m(weights.c, weights.weights);
  const ids_t prompt = random_ids(9, vocabulary, 4);
  const auto plain = [&](const generate_options& o, int at_most) {
    run_result r;
    auto s = m.new_sequence(40, 1);
    sampler choose({}, vocabulary);
    static_cast<generation&>(r.told) = generate(m, s, prompt, o, choose, [&](std::int32_t id) {
      r.ids.push_back(id);
      return static_cast<int>(r.ids.size()) < at_most;
    });
    look_after(m, s, r);
    return r;
  };
  const ids_t answer = plain({.max_new = 24}, 1000).ids;
  ids_t text = prompt;
  text.insert(text.end(), answer.begin(), answer.end());
  const auto compare = [&](const generate_options& o, int at_most, index_t right) {
    const run_result a = plain(o, at_most);
    run_result b;
    auto s = m.new_sequence(40, depth);
    sampler choose({}, vocabulary);
    oracle_drafter<official> drafter(text, vocabulary);
    drafter.always = right;
    b.told = generate_speculative(m, s, prompt, o, choose, drafter, depth, [&](std::int32_t id) {
      b.ids.push_back(id);
      return static_cast<int>(b.ids.size()) < at_most;
    });
    look_after(m, s, b);
    INFO("max_new " << o.max_new << " at most " << at_most << " right drafts " << right);
    CHECK(a.ids == b.ids);
    CHECK(a.told.stop == b.told.stop);
    CHECK(a.told.tokens == b.told.tokens);
    CHECK(a.length == b.length);
    CHECK(a.after == b.after);
  };
  for (index_t right = 0; right <= depth; ++right) {
    for (index_t n = 0; n <= 9; ++n) compare({.max_new = n}, 1000, right);
    for (int n = 1; n <= 9; ++n) compare({.max_new = 20}, n, right);
    for (std::size_t n = 0; n < 9; ++n) {
      const std::int32_t stop[] = {answer[n], -7};
      compare({.max_new = 20, .stop_ids = stop}, 1000, right);
    }
  }
}

TEST_CASE("(1) several turns with one drafter, rewinds between them", "[speculative]") {
  const random_model weights(tiny_config());
  const index_t vocabulary = weights.c.vocab_size, depth = 2, back = 12;
  transformer<official, E> m(weights.c, weights.weights);
  auto a = m.new_sequence(160, back), b = m.new_sequence(160, back);
  mtp_drafter<official, E> drafter(m, depth, back);
  const sampling settings{.repetition_penalty = 1.4, .frequency_penalty = 0.2, .penalty_window = 30};
  sampler choose_a(settings, vocabulary), choose_b(settings, vocabulary);
  for (std::uint64_t turn = 0; turn < 8; ++turn) {
    const ids_t prompt = random_ids(1 + index_t(turn * 5 % 7), vocabulary, turn);
    ids_t of_a, of_b;
    generate(m, a, std::span<const std::int32_t>(prompt), {.max_new = 9}, choose_a,
             [&](std::int32_t id) { return of_a.push_back(id), true; });
    generate_speculative(m, b, prompt, {.max_new = 9}, choose_b, drafter, depth,
                         [&](std::int32_t id) { return of_b.push_back(id), true; });
    INFO("turn " << turn);
    CHECK(of_a == of_b);
    CHECK(choose_a.state().ids == choose_b.state().ids);
    REQUIRE(a.length() == b.length());
    CHECK(b.mtp_length() < b.length());
    if (turn % 2) {
      const index_t to = a.length() - 3 * index_t(turn % 5);
      a.rewind(to);
      b.rewind(to);
      CHECK(drafter.follows(b));
    }
  }
}

TEST_CASE("between calls the window of MTP holds true pairs only", "[speculative]") {
  // Two sequences of the same text: one drafted on the way, one did not.  Their proposals are the same.
  const random_model weights(tiny_config());
  const index_t vocabulary = weights.c.vocab_size, depth = 3;
  transformer<official, E> m(weights.c, weights.weights);
  const ids_t prompt = random_ids(11, vocabulary, 14);
  auto s = m.new_sequence(60, depth);
  mtp_drafter<official, E> drafter(m, depth, depth);
  sampler choose({}, vocabulary);
  ids_t text = prompt;
  generate_speculative(m, s, prompt, {.max_new = 25}, choose, drafter, depth,
                       [&](std::int32_t id) { return text.push_back(id), true; });

  auto straight = m.new_sequence(60, depth);
  mtp_drafter<official, E> other(m, depth, depth);
  generate_speculative(m, straight, std::span<const std::int32_t>(text).first(text.size() - 1),
                       {.max_new = 0}, choose, other, depth, [](std::int32_t) { return true; });
  REQUIRE(s.length() == straight.length());
  const sampling sampled{.temperature = 1};
  sampler one(sampled, vocabulary), two(sampled, vocabulary), three(sampled, vocabulary);
  draft_list a(depth, vocabulary), b(depth, vocabulary), c(depth, vocabulary);
  drafter.propose(s, text.back(), depth, one, a);
  other.propose(straight, text.back(), depth, two, b);
  CHECK(s.mtp_length() == s.length());
  CHECK(straight.mtp_length() == straight.length());
  const auto same = [&](const draft_list& x, const draft_list& y) {
    REQUIRE(x.size() == depth);
    CHECK(std::equal(x.ids().begin(), x.ids().end(), y.ids().begin(), y.ids().end()));
    for (index_t j = 0; j < depth; ++j)
      for (std::int32_t id = 0; id < static_cast<std::int32_t>(vocabulary); ++id)
        CHECK(x.q(j)[id] == y.q(j)[id]);
  };
  same(a, b);

  // The streams of the last token are all that a restored drafter needs.
  straight.rewind_mtp(straight.length() - 1);
  const auto last = other.last_streams(straight);
  tensor<bf16, 2> kept(last.extent(0), last.extent(1));
  std::copy(last.begin(), last.end(), kept.all().begin());
  mtp_drafter<official, E> restored(m, depth, depth);
  CHECK_FALSE(restored.follows(straight));
  restored.restore(straight, kept);
  CHECK(restored.follows(straight));
  restored.propose(straight, text.back(), depth, three, c);
  same(a, c);
}

TEST_CASE("draft 1 is forward_mtp, draft 2 continues from its streams", "[speculative]") {
  const random_model weights(tiny_config());
  const index_t vocabulary = weights.c.vocab_size, n = 10;
  transformer<official, E> m(weights.c, weights.weights);
  using model = transformer<official, E>;
  const ids_t prompt = random_ids(n, vocabulary, 15);
  auto s = m.new_sequence(20, 2);
  mtp_drafter<official, E> drafter(m, 2, 2);
  sampler choose({}, vocabulary);
  generate_speculative(m, s, prompt, {.max_new = 0}, choose, drafter, 2, [](std::int32_t) { return true; });
  draft_list drafts(2, vocabulary);
  drafter.propose(s, 5, 2, choose, drafts);

  auto t = m.new_sequence(20, 2);
  tensor<bf16, 3> streams(n, weights.c.hc_mult, weights.c.hidden_size),
      out(n, weights.c.hc_mult, weights.c.hidden_size);
  tensor<double, 2> logits(n, vocabulary), last(1, vocabulary);
  const typename model::input in{&t, prompt};
  m.forward(std::span(&in, 1), {{}, {}, streams});
  ids_t next(prompt.begin() + 1, prompt.end());
  next.push_back(5);
  const typename model::mtp_input_rows pairs{&t, next, streams};
  m.forward_mtp(std::span(&pairs, 1), {logits, last, out});
  CHECK(std::equal(last.data(), last.data() + vocabulary, logits[n - 1].data()));
  CHECK(drafts.ids()[0] == sampler::greedy(view<const double, 1>(logits[n - 1])));
  const typename model::mtp_input_rows second{&t, drafts.ids().first(1), out.all().rows(n - 1, n)};
  m.forward_mtp(std::span(&second, 1), last);
  CHECK(drafts.ids()[1] == sampler::greedy(view<const double, 1>(last[0])));
}

TEST_CASE("drafts of a trained MTP block are accepted, and the statistics say so", "[speculative]") {
  config c = tiny_config();
  c.vocab_size = 200;
  const random_model weights = predictable_model(c);
  transformer<official, E> m(weights.c, weights.weights);
  const index_t depth = 3, made = 60;
  const ids_t prompt = random_ids(7, c.vocab_size, 4);
  const auto run = [&](const sampling& settings, draft_choice how, ids_t& ids) {
    auto s = m.new_sequence(100, depth);
    mtp_drafter<official, E> drafter(m, depth, depth, how);
    sampler choose(settings, c.vocab_size);
    return generate_speculative(m, s, prompt, {.max_new = made}, choose, drafter, depth,
                                [&](std::int32_t id) { return ids.push_back(id), true; });
  };
  // Penalties keep the text from going round in a circle.
  const sampling greedy{.repetition_penalty = 1.5};
  ids_t ids, plain;
  const auto r = run(greedy, draft_choice::sampled, ids);
  auto s = m.new_sequence(100);
  sampler choose(greedy, c.vocab_size);
  generate(m, s, std::span<const std::int32_t>(prompt), {.max_new = made}, choose,
           [&](std::int32_t id) { return plain.push_back(id), true; });
  CHECK(ids == plain);

  const auto sum = [](const std::vector<index_t>& v) {
    return std::accumulate(v.begin(), v.end(), index_t{0});
  };
  INFO("accepted " << r.drafts.accepted[0] << ' ' << r.drafts.accepted[1] << ' ' << r.drafts.accepted[2]
                   << " of " << r.drafts.proposed[0] << " in " << r.drafts.calls << " calls");
  CHECK(r.tokens == made);
  CHECK(r.drafts.proposed[0] >= r.drafts.proposed[2]);
  CHECK((r.drafts.accepted[0] >= r.drafts.accepted[1] && r.drafts.accepted[1] >= r.drafts.accepted[2]));
  CHECK(r.tokens == 1 + r.drafts.calls + sum(r.drafts.accepted));
  CHECK(r.drafts.tokens_per_call(r) == double(r.tokens - 1) / double(r.drafts.calls));
  CHECK(r.drafts.accepted[0] > r.drafts.proposed[0] * 8 / 10);
  CHECK(r.drafts.tokens_per_call(r) > 2.5);
  // Sampled too.
  ids.clear();
  const auto sampled = run({.temperature = 0.5, .seed = 3}, draft_choice::sampled, ids);
  INFO("sampled: " << sampled.drafts.accepted[0] << " of " << sampled.drafts.proposed[0]);
  CHECK(sampled.drafts.tokens_per_call(sampled) > 2);
  CHECK(sampled.tokens == 1 + sampled.drafts.calls + sum(sampled.drafts.accepted));
}

TEST_CASE("(1) nothing is drafted after a stop id: a constraint may allow nothing there", "[speculative]") {
  const random_model weights(tiny_config());
  const index_t vocabulary = weights.c.vocab_size;
  transformer<official, E> m(weights.c, weights.weights);
  const ids_t prompt = random_ids(5, vocabulary, 4);
  constexpr std::int32_t end = 7;
  sampling s;
  s.constrain = [&](std::span<const std::int32_t> ids, std::span<double> logits) {
    const bool ended = ids.back() == end, now = ids.size() == 12;
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (ended || now != (i == std::size_t{end})) logits[i] = -std::numeric_limits<double>::infinity();
  };
  const std::int32_t stops[] = {end};
  const generate_options options{.max_new = 20, .stop_ids = stops};
  ids_t plain, drafted;
  sampler choose(s, vocabulary), again(s, vocabulary);
  auto a = m.new_sequence(40), b = m.new_sequence(40, 4);
  mtp_drafter<official, E> drafter(m, 4, 4);
  const auto to = [](ids_t& out) { return [&out](std::int32_t id) { return out.push_back(id), true; }; };
  generate(m, a, std::span<const std::int32_t>(prompt), options, choose, to(plain));
  const auto told = generate_speculative(m, b, prompt, options, again, drafter, 4, to(drafted));
  CHECK(drafted == plain);
  CHECK(plain.back() == end);
  CHECK(told.stop == stop_reason::stop_id);
}

// ---- DSpark

TEST_CASE("(2) DSpark: every way through the loop gives the model's joint distribution",
          "[speculative][dspark]") {
  // With a trust in the middle of what the confidence head says, blocks end early here and there.
  const index_t vocabulary = 3, depth = 2, made = 4;
  const random_model weights(with_drafter(enumerable(vocabulary), 3), all_f32, 5);
  model_type m(weights.c, weights.weights);
  const ids_t prompt = random_ids(5, vocabulary, 8);
  sampler s({.temperature = 1.5}, vocabulary);
  joint expected;
  chain(m, s, prompt, made, {}, 1, expected);
  index_t all = 0, trusted = 0;
  for (const double trust : {0.0, 0.15}) {
    const auto found = all_ways(
        m, s, prompt, made, depth,
        [&] { return dspark_drafter<P, E>(m, depth, depth, draft_choice::sampled, trust); },
        trust > 0 ? trusted : all);
    CHECK(largest_difference(found, expected) < rounding);
  }
  CHECK(all > static_cast<index_t>(expected.size()));
  CHECK(trusted < all);
}

TEST_CASE("(1)(3) DSpark: greedy text is that of generate, whatever is trusted", "[speculative][dspark]") {
  const random_model weights(with_drafter(tiny_config(), 5, 3));
  const index_t vocabulary = weights.c.vocab_size;
  const ids_t prompt = random_ids(11, vocabulary, 14);
  transformer<official, E> m(weights.c, weights.weights, {}, 4);  // several passes a call
  ids_t plain;
  auto alone = m.new_sequence(60);
  sampler choose({}, vocabulary);
  generate(m, alone, prompt, {.max_new = 30}, choose,
           [&](std::int32_t id) { return plain.push_back(id), true; });
  for (const auto& [depth, trust] : {std::pair{index_t{1}, 0.0}, {index_t{5}, 0.0}, {index_t{8}, 0.5}}) {
    auto s = m.new_sequence(60, depth);
    model_drafter<official, E> drafter(m, {depth, trust}, depth);
    ids_t text;
    sampler again({}, vocabulary);
    const auto told = generate_speculative(m, s, prompt, {.max_new = 30}, again, drafter, depth,
                                           [&](std::int32_t id) { return text.push_back(id), true; });
    INFO("depth " << depth << " trust " << trust);
    CHECK(text == plain);
    CHECK(s.length() == alone.length());
    CHECK(told.drafts.proposed[0] > 0);
    for (index_t i = 5; i < depth; ++i) CHECK(told.drafts.proposed[static_cast<std::size_t>(i)] == 0);
    if (trust > 0) CHECK(told.drafts.proposed[0] < told.drafts.calls);
  }
}

TEST_CASE("DSpark: a ring is a function of the tokens that stand", "[speculative][dspark]") {
  // One sequence was drafted on and rewound on the way, the other read at once: their proposals are the same.
  const random_model weights(with_drafter(tiny_config(), 4, 2));
  const index_t vocabulary = weights.c.vocab_size, depth = 4;
  transformer<official, E> m(weights.c, weights.weights);
  const ids_t prompt = random_ids(11, vocabulary, 14);
  auto s = m.new_sequence(60, depth), straight = m.new_sequence(60, depth);
  dspark_drafter<official, E> drafter(m, depth, depth), other(m, depth, depth);
  sampler choose({}, vocabulary);
  ids_t text = prompt;
  generate_speculative(m, s, prompt, {.max_new = 25}, choose, drafter, depth,
                       [&](std::int32_t id) { return text.push_back(id), true; });
  generate_speculative(m, straight, std::span<const std::int32_t>(text).first(text.size() - 1),
                       {.max_new = 0}, choose, other, depth, [](std::int32_t) { return true; });
  REQUIRE(s.length() == straight.length());
  sampler one({.temperature = 1}, vocabulary), two({.temperature = 1}, vocabulary);
  draft_list a(depth, vocabulary), b(depth, vocabulary);
  drafter.propose(s, text.back(), depth, one, a);
  other.propose(straight, text.back(), depth, two, b);
  REQUIRE((a.size() == depth && b.size() == depth));
  for (index_t i = 0; i < depth; ++i) {
    CHECK(a.ids()[static_cast<std::size_t>(i)] == b.ids()[static_cast<std::size_t>(i)]);
    for (std::int32_t v = 0; v < vocabulary; ++v) CHECK(a.q(i)[v] == b.q(i)[v]);
  }
  // One that came from elsewhere knows nothing of what was before, and goes on.
  dspark_drafter<official, E> late(m, depth, depth);
  CHECK(late.follows(s));
  CHECK_NOTHROW(generate_speculative(m, s, std::span(&text.back(), 1), {.max_new = 3}, choose, late, depth,
                                     [](std::int32_t) { return true; }));
  CHECK(late.network().first_seen(s.length()) == straight.length());
  // MTP is not there, and is refused by name.
  CHECK_THROWS_AS((mtp_drafter<official, E>(m, 1, 1)), unsupported);
  const random_model none(tiny_config());
  transformer<official, E> plain(none.c, none.weights);
  CHECK_THROWS_AS((dspark_drafter<official, E>(plain, 1, 1)), unsupported);
}

TEST_CASE("generate_speculative refuses what it cannot do", "[speculative]") {
  const random_model weights(tiny_config());
  const index_t vocabulary = weights.c.vocab_size;
  transformer<official, E> m(weights.c, weights.weights);
  const ids_t prompt = random_ids(5, vocabulary, 4);
  sampler choose({}, vocabulary);
  mtp_drafter<official, E> drafter(m, 4, 4);
  const auto go_on = [](std::int32_t) { return true; };
  auto s = m.new_sequence(16, 2);
  const auto run = [&](index_t depth, index_t max_new) {
    generate_speculative(m, s, prompt, {.max_new = max_new}, choose, drafter, depth, go_on);
  };
  CHECK_THROWS_AS(run(0, 3), contract_violation);
  CHECK_THROWS_AS(run(3, 3), contract_violation);   // max_rewind 2
  CHECK_THROWS_AS(run(2, 13), contract_violation);  // 5 + 12 > 16
  CHECK_THROWS_AS(run(2, -1), contract_violation);
  CHECK(s.length() == 0);
  CHECK_NOTHROW(run(2, 3));
  // Tokens that the drafter has not seen.
  generate(m, s, std::span<const std::int32_t>(prompt), {.max_new = 1}, choose, go_on);
  CHECK_THROWS_AS(run(2, 1), contract_violation);
  s.reset();
  CHECK_NOTHROW(run(2, 12));
  // No MTP in the checkpoint.
  config without = tiny_config({0});
  without.num_nextn_predict_layers = 0;
  const random_model none(without);
  transformer<official, E> plain(none.c, none.weights);
  CHECK_THROWS_AS((mtp_drafter<official, E>(plain, 1, 1)), unsupported);
}

}  // namespace dsv4_test::gen_speculative
