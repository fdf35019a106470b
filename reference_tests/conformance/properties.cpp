// SPDX-License-Identifier: MIT
// The black-box properties of docs/verification.md, by their numbers there.  (1) is chunks.cpp,
// (9) sequences.cpp, (11) transformers.cpp and official_*.cpp.
#include <set>

#include "catch.hpp"
#include "executors.hpp"
#include "model_run.hpp"

namespace dsv4_test {
namespace {

/// A config's random model, run on ids 0 .. n-1 of a fixed random text.
template <numerics_policy P, execution E, class Tap = no_tap>
auto logits_of(const random_model& model, std::span<const std::int32_t> ids, Tap&& tap = Tap{}) {
  runner<P, E> run(model);
  return run.fresh(ids, {index_t{1} << 40}, tap);
}
/// `index_topk` larger than any number of entries: every closed entry is chosen.
constexpr index_t choose_all = 1000;

std::string at_layer(index_t l, const char* site) { return "layers." + std::to_string(l) + "." + site; }

/// Softmax over the window and all closed entries, in doubles, from what a one-call run showed.
/// sink: -INFINITY leaves it out.
std::vector<double> dense_attention(const recorder& seen, const config& c, index_t layer,
                                    view<const float, 1> sink, bool use_sink = true) {
  const auto& q = seen.at(at_layer(layer, "attn.q_rope"));
  const auto& kv = seen.at(at_layer(layer, "attn.kv"));
  const index_t hd = c.head_dim, ratio = c.ratio(layer);
  std::vector<double> o;
  for (index_t t = 0; t < q.rows(); ++t)
    for (index_t h = 0; h < c.num_attention_heads; ++h) {
      std::vector<std::pair<const recorder::value*, index_t>> keys;
      for (index_t p = std::max<index_t>(0, t - c.sliding_window + 1); p <= t; ++p) keys.push_back({&kv, p});
      if (ratio > 0 && (t + 1) / ratio > 0) {
        const auto& entries = seen.at(at_layer(layer, "attn.compressor.entry"));
        for (index_t i = 0; i < (t + 1) / ratio; ++i) keys.push_back({&entries, i});
      }
      std::vector<double> score, sum(static_cast<std::size_t>(hd));
      double largest = use_sink ? double(sink[h]) : -INFINITY, denominator = 0;
      for (const auto& [from, row] : keys) {
        double dot = 0;
        for (index_t d = 0; d < hd; ++d) dot += q(t, h * hd + d) * (*from)(row, d);
        score.push_back(dot / std::sqrt(double(hd)));
        largest = std::max(largest, score.back());
      }
      if (use_sink) denominator = std::exp(double(sink[h]) - largest);
      for (std::size_t i = 0; i < keys.size(); ++i) {
        const double p = std::exp(score[i] - largest);
        denominator += p;
        for (index_t d = 0; d < hd; ++d) sum[std::size_t(d)] += p * (*keys[i].first)(keys[i].second, d);
      }
      for (const double v : sum) o.push_back(v / denominator);
    }
  return o;
}
double worst(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double w = 0;
  for (std::size_t i = 0; i < a.size(); ++i) w = std::max(w, std::fabs(a[i] - b[i]));
  return w;
}
double largest(const std::vector<double>& a) {
  double m = 0;
  for (const double v : a) m = std::max(m, std::fabs(v));
  return m;
}

}  // namespace

// ---- (2) causality

TEMPLATE_TEST_CASE("(2) a token changes nothing before it and something after it", "[property]",
                   DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  const auto ids = random_ids(40, model.c.vocab_size, 1);
  const auto straight = logits_of<official, TestType>(model, ids);
  for (const index_t t : {0, 3, 4, 7, 8, 15, 16, 31, 39}) {
    auto changed = ids;
    changed[std::size_t(t)] = (changed[std::size_t(t)] + 1) % std::int32_t(model.c.vocab_size);
    INFO("token " << t);
    CHECK(first_difference(logits_of<official, TestType>(model, changed), straight) == t);
  }
}

TEMPLATE_TEST_CASE("(2) an entry is first seen by the token that closes its block", "[property]",
                   DSV4_TEST_EXECUTORS) {
  // One layer and a window of one: only an entry can carry a token to a later position.
  for (const index_t ratio : {index_t{4}, index_t{16}, index_t{5}}) {
    config c = tiny_config({ratio}, 1);
    c.index_topk = choose_all;
    const random_model model(c);
    const index_t n = 3 * ratio;
    const auto ids = random_ids(n, c.vocab_size, 2);
    const auto straight = logits_of<official, TestType>(model, ids);
    for (index_t t = 0; t < 2 * ratio; ++t) {
      auto changed = ids;
      changed[std::size_t(t)] = (changed[std::size_t(t)] + 1) % std::int32_t(c.vocab_size);
      const auto other = logits_of<official, TestType>(model, changed);
      INFO("ratio " << ratio << ", token " << t);
      CHECK(first_difference(other, straight) == t);
      const index_t closes = (t / ratio + 1) * ratio - 1;
      if (t == closes) continue;
      // Untouched between the token itself and the end of its block, changed there.
      CHECK(first_difference(other.part(t + 1, n), straight.part(t + 1, n)) == closes - (t + 1));
    }
  }
}

TEMPLATE_TEST_CASE("(2) the slots of every query", "[property]", DSV4_TEST_EXECUTORS) {
  config c = tiny_config({0, 4, 16});
  const random_model model(c);
  const auto ids = random_ids(40, c.vocab_size, 3);
  recorder seen;
  logits_of<official, TestType>(model, ids, seen);
  for (index_t l = 0; l < 3; ++l) {
    const auto& slots = seen.at(at_layer(l, "attn.topk_idxs"));
    REQUIRE(slots.rows() == 40);
    for (index_t t = 0; t < 40; ++t) {
      std::set<index_t> tokens, entries;
      index_t filled = 0;
      for (index_t s = 0; s < slots.width; ++s) {
        const auto v = static_cast<index_t>(slots(t, s));
        if (v < 0) continue;
        ++filled;
        (v < 40 ? tokens : entries).insert(v < 40 ? v : v - 40);
      }
      INFO("layer " << l << " token " << t);
      CHECK(filled == index_t(tokens.size() + entries.size()));  // nothing twice
      CHECK(*tokens.begin() == std::max<index_t>(0, t - 7));
      CHECK(*tokens.rbegin() == t);
      CHECK(index_t(tokens.size()) == std::min<index_t>(8, t + 1));
      const index_t closed = c.ratio(l) ? (t + 1) / c.ratio(l) : 0;
      CHECK(index_t(entries.size()) == (l == 1 ? std::min(closed, c.index_topk) : closed));
      if (!entries.empty()) CHECK(*entries.rbegin() < closed);
    }
  }
}

// ---- (3) CSA and dense attention

TEMPLATE_TEST_CASE("(3) top-k changes nothing before position 4k+3, and something there", "[property]",
                   DSV4_TEST_EXECUTORS) {
  for (const index_t k : {1, 4, 6}) {
    config c = tiny_config({4});
    c.index_topk = k;
    const random_model sparse(c);
    c.index_topk = choose_all;
    const random_model dense(c);  // the same weights
    const auto ids = random_ids(4 * k + 8, c.vocab_size, 4);
    INFO("index_topk " << k);
    CHECK(first_difference(logits_of<official, TestType>(sparse, ids),
                           logits_of<official, TestType>(dense, ids)) == 4 * k + 3);
  }
}

TEMPLATE_TEST_CASE("(3) attention equals a dense softmax over window and closed entries", "[property]",
                   DSV4_TEST_EXECUTORS) {
  config c = tiny_config({0, 4, 16, 4}, 5);
  c.index_topk = choose_all;
  const random_model model(c, all_f32);
  const auto ids = random_ids(40, c.vocab_size, 5);
  recorder seen;
  logits_of<float32<float>, TestType>(model, ids, seen);
  for (index_t l = 0; l < c.num_hidden_layers; ++l) {
    const auto& o = seen.at(at_layer(l, "attn.o")).values;
    const auto& w = model.weights.layers[std::size_t(l)].attn;
    INFO("layer " << l);
    CHECK(largest(o) > 0.1);
    CHECK(worst(o, dense_attention(seen, c, l, w.attn_sink)) < 1e-5);
    CHECK(worst(o, dense_attention(seen, c, l, w.attn_sink, false)) > 1e-3);  // the comparison can fail
  }
}

TEMPLATE_TEST_CASE("(3) with every entry chosen the indexer's scores do not matter", "[property]",
                   DSV4_TEST_EXECUTORS) {
  // Scores forced to a falling order: entries are listed by number instead.
  const auto by_number = [](const tap_event& e) {
    if (e.where != site::indexer_scores) return;
    for (index_t i = 0; i < e.size(); ++i) assign(e, i, -double(i % e.shape[1]));
  };
  config c = tiny_config();
  c.index_topk = choose_all;
  const auto ids = random_ids(40, c.vocab_size, 6);
  const random_model dense(c);
  CHECK(distance(logits_of<float32<float>, TestType>(dense, ids),
                 logits_of<float32<float>, TestType>(dense, ids, on_event{by_number})) < 1e-4);
  const random_model sparse(tiny_config());
  CHECK(distance(logits_of<float32<float>, TestType>(sparse, ids),
                 logits_of<float32<float>, TestType>(sparse, ids, on_event{by_number})) > 1e-2);
}

// ---- (4) mHC

TEMPLATE_TEST_CASE("(4) comb: sums over i are 1, sums over j nearly, and it is not symmetric", "[property]",
                   DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  recorder seen;
  logits_of<official, TestType>(model, random_ids(40, model.c.vocab_size, 7), seen);
  double asymmetry = 0;
  for (index_t l = 0; l < model.c.num_hidden_layers; ++l)
    for (const char* site : {"hc_attn.comb", "hc_ffn.comb"}) {
      const auto& comb = seen.at(at_layer(l, site));
      REQUIRE(comb.width == 16);
      for (index_t t = 0; t < comb.rows(); ++t)
        for (index_t j = 0; j < 4; ++j) {
          double over_i = 0, over_j = 0;
          for (index_t i = 0; i < 4; ++i) {
            over_i += comb(t, 4 * i + j);
            over_j += comb(t, 4 * j + i);
            asymmetry = std::max(asymmetry, std::fabs(comb(t, 4 * i + j) - comb(t, 4 * j + i)));
          }
          CHECK(std::fabs(over_i - 1) < 1e-5);
          CHECK(std::fabs(over_j - 1) < 5e-2);
        }
    }
  CHECK(asymmetry > 0.5);
}

TEMPLATE_TEST_CASE("(4) an untransposed comb, a post without its factor 2 and swapped streams are seen",
                   "[property]", DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config());
  const auto ids = random_ids(12, model.c.vocab_size, 8);
  const auto right = logits_of<float32<float>, TestType>(model, ids);
  const auto transpose = [](const tap_event& e) {
    if (e.where != site::hc_attn_comb) return;
    for (index_t t = 0; t < e.shape[0]; ++t)
      for (index_t i = 0; i < 4; ++i)
        for (index_t j = 0; j < i; ++j) {
          const double a = element(e, 16 * t + 4 * i + j), b = element(e, 16 * t + 4 * j + i);
          assign(e, 16 * t + 4 * i + j, b);
          assign(e, 16 * t + 4 * j + i, a);
        }
  };
  const auto half_post = [](const tap_event& e) {
    if (e.where != site::hc_ffn_post) return;
    for (index_t i = 0; i < e.size(); ++i) assign(e, i, element(e, i) / 2);
  };
  CHECK(distance(logits_of<float32<float>, TestType>(model, ids, on_event{transpose}), right) > 0.05);
  CHECK(distance(logits_of<float32<float>, TestType>(model, ids, on_event{half_post}), right) > 0.05);
}

// ---- (5) rotary positions

TEMPLATE_TEST_CASE("(5) attention depends on distances only", "[property]", DSV4_TEST_EXECUTORS) {
  // One window layer and a text of the window's period: from the second period on the same keys, turned.
  const random_model model(tiny_config({0}));
  auto ids = random_ids(8, model.c.vocab_size, 9);
  for (std::size_t i = 8; i < 1000; ++i) ids.push_back(ids[i - 8]);
  recorder seen;
  const auto logits = logits_of<float32<float>, TestType>(model, ids, seen);
  for (const index_t p : {8, 64, 512, 984}) CHECK(distance(logits.part(p, p + 8), logits.part(8, 16)) < 2e-3);
  CHECK(distance(logits.part(0, 7), logits.part(8, 15)) > 1e-2);  // there the window was shorter
  // The keys themselves did turn.
  const auto& kv = seen.at("layers.0.attn.kv");
  double turned = 0;
  for (index_t d = 0; d < kv.width; ++d) turned = std::max(turned, std::fabs(kv(8, d) - kv(16, d)));
  CHECK(turned > 0.1);
}

TEMPLATE_TEST_CASE("(5) rotation keeps lengths: YaRN has no amplitude", "[property]", DSV4_TEST_EXECUTORS) {
  const config c = tiny_config({0, 4, 16});
  const random_model model(c);
  recorder seen;
  logits_of<float32<float>, TestType>(model, random_ids(40, c.vocab_size, 10), seen);
  for (index_t l = 0; l < 3; ++l) {
    const auto &before = seen.at(at_layer(l, "attn.q_norm")), &after = seen.at(at_layer(l, "attn.q_rope"));
    for (index_t t = 0; t < 40; ++t)
      for (index_t h = 0; h < c.num_attention_heads; ++h) {
        double a = 0, b = 0;
        for (index_t d = c.head_dim - c.qk_rope_head_dim; d < c.head_dim; ++d) {
          const double x = before(t, h * c.head_dim + d), y = after(t, h * c.head_dim + d);
          a += x * x;
          b += y * y;
        }
        CHECK(b == Catch::Approx(a).epsilon(1e-5));
      }
    const auto &kv_before = seen.at(at_layer(l, "attn.kv_norm")), &kv_after = seen.at(at_layer(l, "attn.kv"));
    for (index_t t = 0; t < 40; ++t)
      for (index_t d = 0; d < c.head_dim - c.qk_rope_head_dim; ++d) CHECK(kv_after(t, d) == kv_before(t, d));
  }
}

TEMPLATE_TEST_CASE("(5) each layer kind turns by its own table", "[property]", DSV4_TEST_EXECUTORS) {
  const auto ids = random_ids(40, tiny_config().vocab_size, 11);
  const auto with = [&](std::vector<index_t> ratios, auto change) {
    config c = tiny_config(std::move(ratios));
    c.index_topk = choose_all;
    change(c);
    return logits_of<float32<float>, TestType>(random_model(c), ids);
  };
  const auto nothing = [](config&) {};
  const auto main_theta = [](config& c) { c.rope_theta = 500; };
  const auto compress_theta = [](config& c) { c.compress_rope_theta = 10000; };
  const auto no_yarn = [](config& c) { c.has_yarn = false; };
  const auto plain = with({0}, nothing);
  CHECK(distance(with({0}, main_theta), plain) > 1e-3);
  CHECK(same(with({0}, compress_theta), plain));
  CHECK(same(with({0}, no_yarn), plain));
  for (const index_t ratio : {index_t{4}, index_t{16}}) {
    INFO("ratio " << ratio);
    const auto right = with({ratio}, nothing);
    CHECK(same(with({ratio}, main_theta), right));
    CHECK(distance(with({ratio}, compress_theta), right, 16, 40) > 1e-3);
    CHECK(distance(with({ratio}, no_yarn), right, 16, 40) > 1e-3);
  }
  // A factor of 1 stretches nothing.
  CHECK(distance(with({16}, [](config& c) { c.yarn.factor = 1; }), with({16}, no_yarn)) < 1e-4);
}

TEMPLATE_TEST_CASE("(5) an entry is turned to the first position of its block", "[property]",
                   DSV4_TEST_EXECUTORS) {
  for (const index_t ratio : {index_t{4}, index_t{16}}) {
    const config c = tiny_config({ratio});
    const random_model model(c);
    recorder seen;
    logits_of<float32<float>, TestType>(model, random_ids(40, c.vocab_size, 12), seen);
    const auto &norm = seen.at("layers.0.attn.compressor.norm"),
               &entry = seen.at("layers.0.attn.compressor.entry");
    const auto inv_freq = rotary_frequencies(c.compress_rope_theta, c.qk_rope_head_dim, &c.yarn);
    const index_t first = c.head_dim - c.qk_rope_head_dim;
    REQUIRE(entry.rows() == 40 / ratio);
    for (index_t i = 0; i < entry.rows(); ++i)
      for (index_t pair = 0; pair < c.qk_rope_head_dim / 2; ++pair) {
        const double angle = double(float(i * ratio) * inv_freq[pair]);
        const double a = norm(i, first + 2 * pair), b = norm(i, first + 2 * pair + 1);
        CHECK(std::fabs(entry(i, first + 2 * pair) - (a * std::cos(angle) - b * std::sin(angle))) <
              1e-6 * (1 + std::fabs(a)));
        CHECK(std::fabs(entry(i, first + 2 * pair + 1) - (a * std::sin(angle) + b * std::cos(angle))) <
              1e-6 * (1 + std::fabs(b)));
      }
  }
}

// ---- (6) clamps

namespace {
struct clamps {
  bool upper = true;   ///< a <= limit
  bool lower = false;  ///< a >= -limit: not in the model
  bool linear = true;  ///< |u| <= limit
};
/// One expert in doubles.
std::vector<double> naive_expert(const expert_weights<>& w, const std::vector<double>& x, double limit,
                                 double weight, const clamps& use) {
  std::vector<double> z, y;
  for (index_t i = 0; i < w.w1.rows; ++i) {
    double a = 0, u = 0;
    for (index_t d = 0; d < w.w1.cols; ++d) {
      a += w.w1.at(i, d) * x[std::size_t(d)];
      u += w.w3.at(i, d) * x[std::size_t(d)];
    }
    if (use.upper) a = std::min(a, limit);
    if (use.lower) a = std::max(a, -limit);
    if (use.linear) u = std::clamp(u, -limit, limit);
    z.push_back(a / (1 + std::exp(-a)) * u * weight);
  }
  for (index_t d = 0; d < w.w2.rows; ++d) {
    double sum = 0;
    for (index_t i = 0; i < w.w2.cols; ++i) sum += w.w2.at(d, i) * z[std::size_t(i)];
    y.push_back(sum);
  }
  return y;
}
}  // namespace

TEMPLATE_TEST_CASE("(6) both kinds of experts clamp, the gate branch above only", "[property]",
                   DSV4_TEST_EXECUTORS) {
  for (const double limit : {0.5, 1.0, 2.0}) {
    config c = tiny_config({0});
    c.swiglu_limit = limit;
    const random_model model(c, all_f32);
    recorder seen;
    const index_t n = 10;
    logits_of<float32<float>, TestType>(model, random_ids(n, c.vocab_size, 13), seen);
    const auto& x = seen.at("layers.0.ffn_norm");
    const auto &chosen = seen.at("layers.0.ffn.gate.indices"), &weight = seen.at("layers.0.ffn.gate.weights");
    const moe_weights<>& w = model.weights.layers[0].ffn;
    // Shared and routed output under a given reading of the clamps.
    const auto naive = [&](const clamps& use, std::vector<double>& shared, std::vector<double>& routed) {
      shared.clear();
      routed.clear();
      for (index_t t = 0; t < n; ++t) {
        const std::vector<double> row(x.values.begin() + t * x.width, x.values.begin() + (t + 1) * x.width);
        const auto s = naive_expert(w.shared, row, limit, 1, use);
        shared.insert(shared.end(), s.begin(), s.end());
        std::vector<double> sum(row.size());
        for (index_t k = 0; k < chosen.width; ++k) {
          const auto y = naive_expert(w.experts[std::size_t(chosen(t, k))], row, limit, weight(t, k), use);
          for (std::size_t d = 0; d < y.size(); ++d) sum[d] += y[d];
        }
        routed.insert(routed.end(), sum.begin(), sum.end());
      }
    };
    std::vector<double> shared, routed;
    const auto &own_shared = seen.at("layers.0.ffn.shared").values,
               &own_routed = seen.at("layers.0.ffn.routed").values;
    INFO("limit " << limit);
    naive({}, shared, routed);
    CHECK(worst(own_shared, shared) < 1e-5);
    CHECK(worst(own_routed, routed) < 1e-5);
    for (const clamps& wrong :
         {clamps{false, false, true}, clamps{true, true, true}, clamps{true, false, false}}) {
      naive(wrong, shared, routed);
      CHECK(worst(own_shared, shared) > 1e-3);
      CHECK(worst(own_routed, routed) > 1e-3);
    }
    // out = routed + shared
    auto sum = own_routed;
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += own_shared[i];
    CHECK(worst(seen.at("layers.0.ffn.out").values, sum) < 1e-5);
  }
}

// ---- (7) routing

TEMPLATE_TEST_CASE("(7) the bias moves the choice and never the weights", "[property]", DSV4_TEST_EXECUTORS) {
  random_model model(tiny_config({0}));
  const config& c = model.c;
  const auto ids = random_ids(30, c.vocab_size, 14);
  const auto look = [&](float factor) {
    recorder seen;
    tensor<float, 1> bias = model.weights.layers[0].ffn.gate.bias;
    for (float& b : model.weights.layers[0].ffn.gate.bias.all()) b *= factor;
    logits_of<official, TestType>(model, ids, seen);
    model.weights.layers[0].ffn.gate.bias = bias;
    return seen;
  };
  const recorder none = look(0), some = look(1), much = look(100);
  std::set<double> with_much;
  for (const recorder* seen : {&none, &some, &much}) {
    const auto &scores = seen->at("layers.0.ffn.gate.scores"), &biased = seen->at("layers.0.ffn.gate.biased");
    const auto &chosen = seen->at("layers.0.ffn.gate.indices"),
               &weights = seen->at("layers.0.ffn.gate.weights");
    CHECK(scores.values == none.at("layers.0.ffn.gate.scores").values);
    for (index_t t = 0; t < 30; ++t) {
      double sum = 0, selected = 0;
      std::set<double> distinct;
      for (index_t k = 0; k < chosen.width; ++k) {
        sum += weights(t, k);
        selected += scores(t, index_t(chosen(t, k)));
        distinct.insert(chosen(t, k));
        if (k) CHECK(biased(t, index_t(chosen(t, k - 1))) >= biased(t, index_t(chosen(t, k))));
        if (seen == &much) with_much.insert(chosen(t, k));
      }
      CHECK(index_t(distinct.size()) == c.num_experts_per_tok);
      CHECK(sum == Catch::Approx(c.routed_scaling_factor).epsilon(1e-6));
      for (index_t k = 0; k < chosen.width; ++k)
        CHECK(weights(t, k) ==
              Catch::Approx(scores(t, index_t(chosen(t, k))) / selected * c.routed_scaling_factor)
                  .epsilon(1e-6));
      // Nobody who was not chosen has more.
      for (index_t e = 0; e < c.n_routed_experts; ++e)
        if (!distinct.count(double(e)))
          CHECK(biased(t, e) <= biased(t, index_t(chosen(t, chosen.width - 1))));
    }
  }
  CHECK(none.at("layers.0.ffn.gate.indices").values != some.at("layers.0.ffn.gate.indices").values);
  CHECK(index_t(with_much.size()) == c.num_experts_per_tok);  // a huge bias chooses alone
}

TEMPLATE_TEST_CASE("(7) a hash layer takes its experts from the token, its weights from the gate",
                   "[property]", DSV4_TEST_EXECUTORS) {
  config c = tiny_config();
  c.num_hash_layers = 2;
  random_model model(c);
  const auto ids = random_ids(30, c.vocab_size, 15);
  recorder seen;
  logits_of<official, TestType>(model, ids, seen);
  std::swap(model.weights.layers[0].ffn.gate.weight, model.weights.layers[1].ffn.gate.weight);
  recorder swapped;
  logits_of<official, TestType>(model, ids, swapped);
  for (index_t l = 0; l < 2; ++l) {
    const auto& table = model.weights.layers[std::size_t(l)].ffn.gate.tid2eid;
    const auto &chosen = seen.at(at_layer(l, "ffn.gate.indices")),
               &scores = seen.at(at_layer(l, "ffn.gate.scores"));
    const auto& weights = seen.at(at_layer(l, "ffn.gate.weights"));
    for (index_t t = 0; t < 30; ++t) {
      double selected = 0;
      for (index_t k = 0; k < 2; ++k) {
        CHECK(chosen(t, k) == double(table.at(ids[std::size_t(t)], k)));
        selected += scores(t, index_t(chosen(t, k)));
      }
      for (index_t k = 0; k < 2; ++k)
        CHECK(weights(t, k) ==
              Catch::Approx(scores(t, index_t(chosen(t, k))) / selected * c.routed_scaling_factor)
                  .epsilon(1e-6));
    }
    CHECK(swapped.at(at_layer(l, "ffn.gate.indices")).values == chosen.values);
    CHECK(swapped.at(at_layer(l, "ffn.gate.weights")).values != weights.values);
    CHECK(seen.at(at_layer(l, "ffn.gate.biased")).values == scores.values);
  }
}

TEMPLATE_TEST_CASE("(7) forced routing: what an observer writes is what runs", "[property]",
                   DSV4_TEST_EXECUTORS) {
  const random_model model(tiny_config({0}));
  const auto ids = random_ids(10, model.c.vocab_size, 16);
  recorder seen;
  runner<official, TestType> run(model);
  const auto forced = run.fresh(ids, {1000}, on_event{[&](const tap_event& e) {
                                  if (e.where == site::gate_indices)
                                    for (index_t i = 0; i < e.size(); ++i)
                                      assign(e, i, double(i % 2 ? 0 : 5));
                                  seen(e);
                                }});
  const auto &scores = seen.at("layers.0.ffn.gate.scores"), &weights = seen.at("layers.0.ffn.gate.weights");
  for (index_t t = 0; t < 10; ++t)
    CHECK(weights(t, 0) == Catch::Approx(scores(t, 5) / (scores(t, 5) + scores(t, 0)) * 1.5).epsilon(1e-6));
  CHECK(distance(forced, run.fresh(ids)) > 1e-2);
}

// ---- (8) the sink

TEMPLATE_TEST_CASE("(8) a sink far below is a plain softmax, far above it silences attention", "[property]",
                   DSV4_TEST_EXECUTORS) {
  config c = tiny_config({0, 4, 16});
  c.index_topk = choose_all;
  random_model model(c, all_f32);
  const auto ids = random_ids(40, c.vocab_size, 17);
  const auto look = [&](float sink, auto policy) {
    for (auto& layer : model.weights.layers)
      for (float& s : layer.attn.attn_sink.all()) s = sink;
    recorder seen;
    logits_of<decltype(policy), TestType>(model, ids, seen);  // every logit is finite, or it throws
    return seen;
  };
  for (const float sink : {-1e4f, -1e30f}) {
    const recorder seen = look(sink, float32<float>{});
    for (index_t l = 0; l < 3; ++l)
      CHECK(worst(seen.at(at_layer(l, "attn.o")).values, dense_attention(seen, c, l, {}, false)) < 1e-5);
  }
  for (const float sink : {80.0f, 200.0f, 1e30f})
    for (index_t l = 0; l < 3; ++l) {
      INFO("sink " << sink << " layer " << l);
      CHECK(largest(look(sink, float32<float>{}).at(at_layer(l, "attn.o")).values) < 1e-25);
      CHECK(largest(look(sink, official{}).at(at_layer(l, "attn.o")).values) < 1e-25);
    }
}

// ---- (10) what of the formats shows in a model

TEMPLATE_TEST_CASE("(10) e2m1 values are e4m3 values, at every scale difference up to 2^6", "[property]",
                   DSV4_TEST_EXECUTORS) {
  for (unsigned code = 0; code < 16; ++code)
    for (int offset = -6; offset <= 6; ++offset) {
      const double v = std::ldexp(e2m1::from_bits(code).decode(), offset);
      CHECK(e4m3::encode(v).decode() == v);
    }
  // The same model with its FP4 experts rewritten as FP8, one scale of 1 per tile: the same bits.
  random_model model(tiny_config({0}));
  const auto ids = random_ids(20, model.c.vocab_size, 18);
  const auto before = logits_of<official, TestType>(model, ids);
  std::vector<std::vector<std::byte>> memory;
  const std::byte one{127};
  for (auto& e : model.weights.layers[0].ffn.experts)
    for (weight_matrix* w : {&e.w1, &e.w2, &e.w3}) {
      std::vector<std::byte> codes;
      for (index_t o = 0; o < w->rows; ++o)
        for (index_t i = 0; i < w->cols; ++i) {
          const e4m3 code = e4m3::encode(w->at(o, i));
          REQUIRE(code.decode() == w->at(o, i));
          codes.push_back(std::byte{code.bits});
        }
      memory.push_back(std::move(codes));
      *w = {dtype::f8_e4m3, memory.back().data(), w->rows, w->cols, dtype::f8_e8m0, &one, fp8_tile, fp8_tile};
    }
  CHECK(same(logits_of<official, TestType>(model, ids), before));
}

}  // namespace dsv4_test
