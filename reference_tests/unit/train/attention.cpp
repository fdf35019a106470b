// SPDX-License-Identifier: MIT
// Attention of the three kinds, its parts and the indexer's objective: gradients against finite differences, in double.
#include "dsv4/train/attention.hpp"
#include "finite_difference.hpp"

namespace dsv4_test {
namespace {

using T = double;
using bytes = std::vector<std::uint8_t>;
exec::ref e;

/// Lengths around a block and around the window of 8, and one whose entries are more than the indexer may choose.
const std::vector<index_t> lengths{1, 3, 4, 5, 7, 8, 9, 17};

TEST_CASE("compressor: overlap, blocks left open, several samples", "[train]") {
  const config c = smallest_config();
  for (const index_t layer : {1, 2}) {  // CSA, HCA
    trained_model<> m(c, 1);
    const train::batch b = packed(lengths, c.vocab_size, 2);
    const train::rotary_table rotary(c, c.ratio(layer), 17);
    const train::layer_context l(c, b, c.ratio(layer), rotary);
    const index_t tokens = b.tokens(), entries = l.entries.size(), width = (layer == 1 ? 2 : 1) * c.head_dim;
    CHECK(entries == (layer == 1 ? 0 + 0 + 1 + 1 + 1 + 2 + 2 + 4 : 3 + 2));
    integers r{3};
    variable<2> x(r, 1, tokens, c.hidden_size);
    auto dy = numbers(r, 1, entries, c.head_dim);
    workspace scratch;
    const auto s = train::compressor_saved<T>::take(scratch, tokens, entries, width, c.head_dim);
    const auto w = *m.w().layers[std::size_t(layer)].attn.compressor;
    const auto g = *m.g().layers[std::size_t(layer)].attn.compressor;
    const std::string name = "layers." + std::to_string(layer) + ".attn.compressor.";
    const auto loss = [&] {
      train::compress<exec::ref, T>(e, c, l.entries, l.position, x, w, l.rotary, s);
      return inner(dy, s.entries);
    };
    loss();
    auto used = dy;
    train::compress_backward<exec::ref, T>(e, scratch, l.entries, l.position, used, x, w, l.rotary, s,
                                           x.gradient, g);
    x.check("x", loss);
    m.check(name, loss);
    // Tokens of samples shorter than a block are in no entry; so is the end of a block left open.
    for (index_t t = 0; t < 4; ++t)
      for (index_t d = 0; d < c.hidden_size; ++d) CHECK(x.gradient(t, d) == before);
    for (index_t d = 0; d < c.hidden_size; ++d) CHECK(x.gradient(tokens - 1, d) == before);

    // Without dx: the same for the weights.
    const tensor<T, 1> expected = m.gradients;
    m.forget();
    used = dy;
    loss();
    train::compress_backward<exec::ref, T>(e, scratch, l.entries, l.position, used, x, w, l.rotary, s, {}, g);
    CHECK(std::equal(expected.data(), expected.data() + expected.size(), m.gradients.data()));
  }
}

TEST_CASE("core attention: window, entries, sink near and far", "[train]") {
  const index_t heads = 3, d = 4;
  for (const double sink_size : {1.0, 30.0}) {
    const index_t tokens = 7, entries = 3, window = 4;
    integers r{4};
    variable<3> q(r, 2, tokens, heads, d);
    variable<2> kv(r, 1.5, tokens, d), es(r, 1.5, entries, d);
    variable<1> sink(r, 1, heads);
    if (sink_size > 1)
      sink.value[0] = sink_size, sink.value[1] = -sink_size;  // takes nearly all, nearly nothing
    bytes chosen(std::size_t(tokens * entries), 0);
    for (index_t t = 0; t < tokens; ++t)
      for (index_t s = 0; s < entries; ++s)
        chosen[std::size_t(t * entries + s)] = s < t / 2 && (t + s) % 3 != 0;
    const view<const std::uint8_t, 2> mask(chosen.data(), tokens, entries);
    const train::attention_keys<T> keys{window, kv, es, mask}, dkeys{window, kv.gradient, es.gradient, {}};
    auto dout = numbers(r, 1, tokens, heads, d);
    tensor<T, 3> o(tokens, heads, d);
    tensor<T, 2> lse(tokens, heads), delta(tokens, heads), mass(tokens, entries);
    using kernel = kernel::attend<exec::ref>;
    const auto loss = [&] {
      kernel::forward<T>(q.constant(), keys, sink.constant(), o, lse);
      return inner(dout, o);
    };
    loss();
    for (index_t t = 0; t < tokens; ++t)
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < d; ++i) delta(t, h) += dout(t, h, i) * o(t, h, i);
    q.forget(not_a_number);
    kernel::backward<T>(q.constant(), keys, sink.constant(), lse.all(), dout.all(), delta.all(), q.gradient,
                        dkeys, sink.gradient);
    q.check("q", loss, 0);
    kv.check("window keys", loss);
    es.check("entries", loss);
    sink.check("sink", loss);

    // Its mass: with the sum over the window and the sink it is the number of heads.
    loss();
    kernel::mass<T>(q.constant(), es.constant(), mask, lse.all(), mass);
    for (index_t t = 0; t < tokens; ++t) {
      double sum = 0;
      for (index_t s = 0; s < entries; ++s) {
        CHECK((mass(t, s) > 0) == bool(mask(t, s)));
        sum += mass(t, s);
      }
      for (index_t h = 0; h < heads; ++h) {
        sum += std::exp(sink.value[h] - lse(t, h));
        for (index_t p = std::max(index_t{0}, t - window + 1); p <= t; ++p)
          sum += std::exp(inner(q.value[t][h], kv.value[p]) / 2 - lse(t, h));
      }
      CHECK(sum == Catch::Approx(double(heads)).epsilon(1e-13));
    }
  }
}

TEST_CASE("indexer's objective: q, head weights and keys, over a set", "[train]") {
  const index_t heads = 3, d = 4;
  // One tile of queries; and two, the second not full.
  for (const auto& [tokens, dense] : {std::pair<index_t, bool>{14, true}, {14, false}, {41, false}}) {
    const index_t entries = tokens / csa_ratio;
    integers r{5};
    variable<3> q(r, 1.5, tokens, heads, d);
    variable<2> weights(r, 1, tokens, heads), keys(r, 1.5, entries, d);
    bytes set(std::size_t(tokens * entries), 0);
    tensor<T, 2> teacher(tokens, entries);
    for (index_t t = 0; t < tokens; ++t)
      for (index_t s = 0; s < train::visible_entries(t, csa_ratio); ++s) {
        set[std::size_t(t * entries + s)] = dense || (t + s) % 3 != 0;
        teacher(t, s) = set[std::size_t(t * entries + s)] ? 0.1 + double(r.below(100)) / 50 : 0;
      }
    if (dense) teacher(9, 0) = teacher(9, 1) = 0;  // nothing on any entry: no loss
    if (dense) teacher(12, 1) = 0;                 // no share: 0 log 0 is 0
    const view<const std::uint8_t, 2> mask(set.data(), tokens, entries);
    const auto loss = [&] {
      return 0.7 * train::index_objective<exec::ref, T>(e, q.constant(), weights.constant(), keys.constant(),
                                                        mask, teacher.all(), 1, {}, {}, {});
    };
    train::index_objective<exec::ref, T>(e, q.constant(), weights.constant(), keys.constant(), mask,
                                         teacher.all(), 0.7, q.gradient, weights.gradient, keys.gradient);
    q.check("q", loss);
    weights.check("head weights", loss);
    keys.check("keys", loss);
    for (index_t t : {0, 2})
      for (index_t h = 0; h < heads; ++h) CHECK(weights.gradient(t, h) == before);
    if (dense)
      for (index_t h = 0; h < heads; ++h) CHECK(weights.gradient(9, h) == before);
    CHECK(loss() > 0);

    // A pupil that knows everything has nothing to learn: the scores' own softmax as teacher.
    tensor<T, 2> own(tokens, entries);
    for (index_t t = 0; t < tokens; ++t) {
      const index_t n = train::visible_entries(t, csa_ratio);
      for (index_t s = 0; s < n; ++s) {
        T score = 0;
        for (index_t h = 0; h < heads; ++h)
          score += weights.value(t, h) * std::max(inner(q.value[t][h], keys.value[s]), T(0));
        own(t, s) = mask(t, s) ? 3 * std::exp(score) : 0;
      }
    }
    q.forget(0);
    CHECK(std::fabs(train::index_objective<exec::ref, T>(e, q.constant(), weights.constant(), keys.constant(),
                                                         mask, own.all(), 1, q.gradient, weights.gradient,
                                                         keys.gradient)) < 1e-14);
    for (index_t i = 0; i < q.gradient.size(); ++i) CHECK(std::fabs(q.gradient.data()[i]) < 1e-14);
  }
}

/// Two samples, and what a CSA layer knows of them.
struct indexer_case {
  config c = smallest_config();
  train::batch b = packed({5, 9}, c.vocab_size, 6);
  train::rotary_table rotary{c, csa_ratio, 9};
  train::layer_context l{c, b, csa_ratio, rotary};
};

TEST_CASE("indexer: through its projections; quantised, straight through the rounding", "[train]") {
  const indexer_case at;
  const config& c = at.c;
  const train::layer_context& l = at.l;
  const index_t tokens = at.b.tokens();
  for (const bool quantise : {false, true}) {
    trained_model<> m(c, 7);
    const auto w = *m.w().layers[1].attn.indexer;
    integers r{8};
    auto x = numbers(r, 1, tokens, c.hidden_size), qr = numbers(r, 1, tokens, c.q_lora_rank);
    workspace scratch;
    const auto s = train::indexer_saved<T>::take(scratch, c, tokens, l.entries.size());
    auto dq = numbers(r, 1, tokens, c.index_n_heads, c.index_head_dim);
    auto dw = numbers(r, 1, tokens, c.index_n_heads), dk = numbers(r, 1, l.entries.size(), c.index_head_dim);
    const auto loss = [&] {
      train::index_forward<exec::ref, T>(e, c, l.entries, l.position, x, qr, w, l.rotary, false, s);
      if (quantise) {  // what is differentiated: the turned values before they are rounded
        hadamard(e, s.q.reshape(tokens * c.index_n_heads, c.index_head_dim));
        hadamard(e, s.keys.entries);
      }
      return inner(dq, s.q) + inner(dw, s.weights) + inner(dk, s.keys.entries);
    };
    loss();
    auto used_q = dq;
    auto used_w = dw, used_k = dk;
    train::index_backward<exec::ref, T>(e, scratch, c, l.entries, l.position, x, qr, w, l.rotary, quantise, s,
                                        used_q, used_w, used_k, *m.g().layers[1].attn.indexer);
    m.check("layers.1.attn.indexer.", loss);
  }
}

TEST_CASE("indexer: quantised, queries and keys are turned and rounded to FP4", "[train]") {
  const indexer_case at;
  const config& c = at.c;
  const train::layer_context& l = at.l;
  const index_t tokens = at.b.tokens();
  trained_model<> m(c, 7);
  integers r{8};
  auto x = numbers(r, 1, tokens, c.hidden_size), qr = numbers(r, 1, tokens, c.q_lora_rank);
  workspace scratch;
  const auto run = [&](bool quantise) {
    const auto s = train::indexer_saved<T>::take(scratch, c, tokens, l.entries.size());
    train::index_forward<exec::ref, T>(e, c, l.entries, l.position, x, qr, *m.w().layers[1].attn.indexer,
                                       l.rotary, quantise, s);
    return s;
  };
  const auto plain = run(false), rounded = run(true);
  const auto same = [](const auto& a, const auto& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  };
  CHECK(same(rounded.weights, plain.weights));
  struct {
    view<T, 2> from, to;
  } const both[] = {{plain.q.reshape(tokens * c.index_n_heads, c.index_head_dim),
                     rounded.q.reshape(tokens * c.index_n_heads, c.index_head_dim)},
                    {plain.keys.entries, rounded.keys.entries}};
  for (const auto& [from, to] : both) {
    CHECK(from.extent(0) > 0);
    hadamard(e, from);
    CHECK_FALSE(same(from, to));
    fp4_act_quant(e, from);
    CHECK(same(from, to));
  }
}

/// One layer's attention over the samples.
struct attention_case {
  config c = smallest_config();
  index_t layer;
  trained_model<> m{c, 9};
  train::batch b = packed(lengths, c.vocab_size, 10);
  train::rotary_table rotary{c, c.ratio(layer), 17};
  train::layer_context l{c, b, c.ratio(layer), rotary};
  integers r{11};
  variable<2> x{r, 1, b.tokens(), c.hidden_size};
  tensor<T, 2> dout = numbers(r, 1, b.tokens(), c.hidden_size), out = tensor<T, 2>(b.tokens(), c.hidden_size);
  workspace scratch;
  train::attention_saved<T> s = train::attention_saved<T>::take(scratch, l);
  train::objective want;
  bytes chosen;

  explicit attention_case(index_t layer) : layer(layer) {}
  std::string name() const { return "layers." + std::to_string(layer) + ".attn."; }
  double forward() {
    train::attention<exec::ref, T>(e, scratch, l, want, x, m.w().layers[std::size_t(layer)].attn, s, out);
    if (chosen.empty()) chosen.assign(s.chosen.begin(), s.chosen.end());
    if (!std::equal(chosen.begin(), chosen.end(), s.chosen.begin())) return not_a_number;  // a step too far
    return inner(dout, out);
  }
  /// @returns the KL
  double backward(double index_scale) {
    x.forget(before);
    m.forget();
    auto d = dout;
    return train::attention_backward<exec::ref, T>(e, scratch, l, want, d, x,
                                                   m.w().layers[std::size_t(layer)].attn, s, index_scale,
                                                   x.gradient, m.g().layers[std::size_t(layer)].attn);
  }
};

TEST_CASE("attention: window, CSA and HCA over packed samples", "[train]") {
  struct {
    index_t layer;
    bool dense;
  } const cases[] = {{0, false}, {1, false}, {1, true}, {2, false}};
  for (const auto& [layer, dense] : cases) {
    attention_case a(layer);
    a.want.dense_attention = dense;
    a.want.index = train::index_stage::off;
    a.forward();
    if (layer == 1) {  // the last query of the longest sample sees 4 entries, and may choose 2
      index_t n = 0;
      for (index_t j = 0; j < 4; ++j) n += a.s.chosen_of(a.l, 7)(16, j);
      CHECK(n == (dense ? 4 : 2));
    }
    CHECK(a.backward(1) == 0);
    INFO("layer " << layer << (dense ? ", dense" : ""));
    a.x.check("x", [&] { return a.forward(); });
    a.m.check(a.name(), [&] { return a.forward(); }, "indexer");
    a.m.check_untouched("indexer");
  }
}

TEST_CASE("attention: the indexer learns from its own objective, and nothing else does", "[train]") {
  for (const train::index_stage stage : {train::index_stage::dense, train::index_stage::sparse}) {
    attention_case a(1);
    a.want.index = train::index_stage::off;
    a.want.dense_attention = stage == train::index_stage::dense;
    a.forward();
    a.backward(0.7);
    const tensor<T, 1> without = a.m.gradients;
    const tensor<T, 2> dx = a.x.gradient;

    a.want.index = stage;
    a.want.dense_attention = false;
    a.chosen.clear();
    a.forward();
    const double kl = a.backward(0.7);
    CHECK(kl > 0);
    CHECK(std::equal(dx.data(), dx.data() + dx.size(), a.x.gradient.data()));
    for (const train::parameter_info& p : a.m.layout.all)
      if (p.name.find("indexer") == p.name.npos) {
        INFO(p.name);
        CHECK(std::equal(without.data() + p.offset, without.data() + p.offset + p.size(),
                         a.m.gradients.data() + p.offset));
      }
    // Differences of the KL need a backward pass each: it is found there.
    tensor<T, 1> found = a.m.gradients;
    const auto loss = [&] { return std::isnan(a.forward()) ? not_a_number : 0.7 * a.backward(1); };
    for (const train::parameter_info& p : a.m.layout.all)
      if (p.name.starts_with(a.name() + "indexer")) {
        std::vector<T> g(found.data() + p.offset, found.data() + p.offset + p.size());
        for (T& v : g) v -= before;
        check_gradient(p.name, a.m.values(p), g, loss);
      }
  }
}

TEST_CASE("attention: a scale of 0, or no objective, leaves the indexer alone", "[train]") {
  attention_case a(1);
  a.forward();
  CHECK(a.backward(0) == 0);
  a.m.check_untouched("indexer");
}

}  // namespace
}  // namespace dsv4_test
