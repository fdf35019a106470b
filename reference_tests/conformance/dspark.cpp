// SPDX-License-Identifier: MIT
// DSpark against DeepSpec, dspark-mlx and nemo_automodel (golden/dspark): integers and masks equal, loss and its gradient
// in double, drafters in float32 as close as evaluation in double allows, their gradients as directional derivatives.
#include <cstdio>
#include <map>
#include <random>
#include <set>

#include <nlohmann/json.hpp>

#include "dsv4/dspark/acceptance.hpp"
#include "dsv4/dspark/anchors.hpp"
#include "dsv4/dspark/cache_store.hpp"
#include "dsv4/dspark/drafter.hpp"
#include "dsv4/dspark/loss.hpp"
#include "dsv4/model/dspark.hpp"
#include "golden_file.hpp"
#include "random_model.hpp"

namespace dsv4_test::conformance_dspark {
namespace {

using namespace dsv4;
using namespace dsv4::dspark;
using dsv4::index_t;

/// Of values in double.
constexpr double double_tolerance = 1e-12;
/// Of values that the oracle computed in float32; those that went through three stages are larger than 1.
constexpr double float_tolerance = 2e-5, stage_tolerance = 1e-4;
/// Of a directional derivative, relative to the norm of the gradient.
constexpr double gradient_tolerance = 1e-5;

std::filesystem::path file(const std::string& name) {
  const auto found = golden("dspark/" + name);
  REQUIRE(found);  // the project has it: reference_tests/data
  return *found;
}
std::set<std::string> cases(const golden_file& f) {
  std::set<std::string> all;
  for (const std::string& name : f.names()) all.insert(name.substr(0, name.find('.')));
  return all;
}
nlohmann::json config_of(const std::string& name) {
  const auto opened = io::safetensors::open(file(name));
  return nlohmann::json::parse(opened.metadata().at("config"));
}
template <class T>
view<const T, 1> slice(const std::vector<T>& x, index_t from, index_t n) {
  return {x.data() + from, n};
}
/// Within `tolerance`; the worst so far is kept for the report.
void close(const std::string& what, double d, double tolerance, double& worst) {
  INFO(what << ": " << d);
  CHECK(d <= tolerance);
  worst = std::max(worst, d);
}

// ---- loss ----
TEST_CASE("dspark: loss, gradient and metrics, DeepSpec") {
  const golden_file f(file("loss.safetensors"));
  double worst = 0;
  for (const std::string& p : cases(f)) {
    INFO(p);
    const auto draft = f.tensor<3>(p + ".draft_logits"), target = f.tensor<3>(p + ".target_logits");
    const auto confidence = f.tensor<2>(p + ".confidence");
    const auto labels = f.tensor<2, std::int32_t>(p + ".target_ids");
    const auto counted = f.tensor<2, std::uint8_t>(p + ".eval_mask");
    const auto kept = f.list<std::uint8_t>(p + ".block_keep");
    const std::map<std::string, loss_rule> rules{{"released", {}},
                                                 {"no_decay", {.decay = 0}},
                                                 {"ce_only", {4, 1, 0, 0}},
                                                 {"gamma2", {2, 0.3, 0.5, 0.2}}};
    for (const auto& [name, rule] : rules) {
      const std::string n = p + "." + name;
      tensor<double, 3> ddraft(draft.extent(0), draft.extent(1), draft.extent(2));
      tensor<double, 2> dconfidence(draft.extent(0), draft.extent(1));
      const bool trusts = rule.confidence > 0;
      const drafted<double> x{draft, target, trusts ? confidence.all() : view<const double, 2>(), labels,
                              counted};
      const double loss = draft_loss<double>(x, rule, ddraft, trusts ? dconfidence.all() : view<double, 2>());
      close(n + ".loss", std::fabs(loss - f.scalar(n + ".loss")), double_tolerance, worst);
      close(n + ".grad_draft_logits", distance(ddraft, f.tensor<3>(n + ".grad_draft_logits")),
            double_tolerance, worst);
      CHECK(std::fabs(loss - f.scalar(n + ".loss32")) <= float_tolerance);
      if (trusts)
        close(n + ".grad_confidence", distance(dconfidence, f.tensor<2>(n + ".grad_confidence")),
              double_tolerance, worst);
    }
    const drafted<double> x{draft, target, confidence, labels, counted};
    const draft_metrics<double> m = measured<double>(x, slice(kept, 0, draft.extent(0)), loss_rule{}.decay);
    const std::string n = p + ".metric.";
    for (const auto& [name, found] :
         std::map<std::string, double>{{"ce_loss", m.cross_entropy},
                                       {"l1_loss", m.distance},
                                       {"confidence_loss", m.confidence_loss},
                                       {"confidence_abs_error", m.confidence_error},
                                       {"confidence_bias", m.confidence_bias},
                                       {"confidence_cumprod_bias", m.run_bias},
                                       {"tau_probabilistic", m.expected_tokens}})
      close(n + name, std::fabs(found - f.scalar(n + name)), double_tolerance, worst);
    close(n + "accept_rate", distance(m.acceptance, f.list(n + "accept_rate")), double_tolerance, worst);
    const auto rate = f.tensor<2>(p + ".accept_rate");
    tensor<double, 1> dp(draft.extent(2)), dq(draft.extent(2));
    for (index_t b = 0; b < rate.extent(0); ++b)
      for (index_t k = 0; k < rate.extent(1); ++k) {
        probabilities<double>(draft[b][k], 1, dp), probabilities<double>(target[b][k], 1, dq);
        close(p + ".accept_rate", std::fabs(acceptance_rate<double>(dp, dq) - rate(b, k)), double_tolerance,
              worst);
      }
  }
  std::printf("dspark loss: within %.1e\n", worst);
}

// ---- anchors ----
TEST_CASE("dspark: anchors, labels and masks, DeepSpec") {
  const golden_file f(file("anchors.safetensors"));
  index_t blocks = 0;
  for (const std::string& p : cases(f)) {
    INFO(p);
    const auto mask = f.tensor<2, std::uint8_t>(p + ".loss_mask"),
               keep = f.tensor<2, std::uint8_t>(p + ".keep");
    const auto anchors = f.tensor<2, index_t>(p + ".anchors");
    const auto ids = f.tensor<2, std::int32_t>(p + ".ids");
    const index_t length = mask.extent(1), each = anchors.extent(1), slots = f.extent(p + ".eval_mask", 2);
    std::int32_t noise = -1;  // that of the second slot, wherever there is one
    if (slots > 1) noise = f.at<std::int32_t>(p + ".block_input_ids", 1);
    for (index_t b = 0; b < mask.extent(0); ++b) {
      index_t candidates = 0;
      for (index_t i = 0; i + 1 < length; ++i) {
        CHECK(may_anchor(mask[b], i) == (f.at<int>(p + ".candidates", b * (length - 1) + i) != 0));
        candidates += may_anchor(mask[b], i);
      }
      for (index_t a = 0; a < each; ++a) {
        CHECK((keep(b, a) != 0) == (a < std::min(candidates, each)));
        const training_block block{anchors(b, a), keep(b, a) != 0};
        if (block.kept) CHECK(may_anchor(mask[b], block.anchor));
        std::vector<std::uint8_t> counts(usize(slots));
        std::vector<std::int32_t> input(usize(slots));
        block.evaluated(mask[b], {counts.data(), slots});
        if (slots > 1) block.input(ids[b], noise, {input.data(), slots});
        for (index_t k = 0; k < slots; ++k) {
          const index_t at = (b * each + a) * slots + k;
          CHECK(block.label(k, length) == f.at<index_t>(p + ".label_index", at));
          CHECK(index_t{counts[usize(k)]} == f.at<index_t>(p + ".eval_mask", at));
          CHECK(block.anchor + k == f.at<index_t>(p + ".positions", at));
          if (slots > 1) CHECK(input[usize(k)] == f.at<std::int32_t>(p + ".block_input_ids", at));
          index_t wrong = 0;
          const index_t columns = length + each * slots;
          for (index_t c = 0; c < columns; ++c) {
            const bool sees = c < length ? block.first_seen(0) <= c && c < block.end_seen()
                                         : block.kept && (c - length) / slots == a;
            wrong += sees != (f.at<int>(p + ".attention_mask", at * columns + c) != 0);
          }
          CHECK(wrong == 0);
        }
        ++blocks;
      }
    }
  }
  CHECK(blocks > 0);
}

// ---- verification ----
TEST_CASE("dspark: which tokens stand, DeepSpec; and that nothing is lost") {
  const golden_file f(file("verify.safetensors"));
  const auto draft = f.tensor<3>("draft_logits"), target = f.tensor<3>("target_logits");
  const index_t blocks = draft.extent(0), slots = draft.extent(1), vocabulary = draft.extent(2);
  std::set<std::string> temperatures;
  for (const std::string& name : f.names())
    if (name[0] == 'T') temperatures.insert(name.substr(0, name.rfind('.')));
  REQUIRE(!temperatures.empty());
  double worst = 0;
  for (const std::string& t : temperatures) {
    INFO(t);
    const double temperature = std::stod(t.substr(1));
    const auto tokens = f.tensor<2, std::int32_t>(t + ".draft_tokens");
    const auto uniform = f.tensor<2>(t + ".uniform"), accepted = f.tensor<2>(t + ".accept_probability");
    for (index_t b = 0; b < blocks; ++b) {
      tensor<double, 2> p(slots, vocabulary), q(slots + 1, vocabulary);
      for (index_t k = 0; k < slots; ++k) probabilities<double>(draft[b][k], temperature, p[k]);
      for (index_t k = 0; k <= slots; ++k) probabilities<double>(target[b][k], temperature, q[k]);
      close(t + ".draft_probs", distance(p, f.tensor<3>(t + ".draft_probs")[b]), float_tolerance, worst);
      for (index_t k = 0; k < slots; ++k)
        close(t + ".accept_probability",
              std::fabs(acceptance_probability(p(k, tokens(b, k)), q(k, tokens(b, k))) - accepted(b, k)),
              float_tolerance, worst);
      tensor<double, 1> next(vocabulary);
      CHECK(verified<double>(p, q, tokens[b], uniform[b], next) == f.at<index_t>(t + ".accepted", b));
      close(t + ".next_distribution", distance(next, f.tensor<2>(t + ".next_distribution")[b]),
            float_tolerance, worst);
      // Enumerated: drawing from p and verifying is drawing from q.
      for (index_t k = 0; k < slots; ++k) {
        residual<double>(p[k], q[k], next);
        const double rate = acceptance_rate<double>(p[k], q[k]);
        double stands = 0;
        for (index_t v = 0; v < vocabulary; ++v) {
          const double kept = p(k, v) * acceptance_probability(p(k, v), q(k, v));
          stands += kept;
          CHECK(std::fabs(kept + (1 - rate) * next[v] - q(k, v)) <= double_tolerance);
        }
        CHECK(std::fabs(stands - rate) <= double_tolerance);
      }
    }
  }
  std::printf("dspark verification: within %.1e\n", worst);
}

// ---- heads ----
TEST_CASE("dspark: vanilla, gated and recurrent heads, DeepSpec") {
  double worst = 0;
  for (const auto& [name, kind] : std::map<std::string, markov_kind>{{"vanilla", markov_kind::vanilla},
                                                                     {"gated", markov_kind::gated},
                                                                     {"rnn", markov_kind::recurrent}}) {
    INFO(name);
    const golden_file f(file("qwen3_" + name + ".safetensors"));
    const std::string p = "weight.markov_head.",
                      mix = kind == markov_kind::gated ? "gate_proj" : "joint_proj";
    const auto w1 = f.tensor<2>(p + "markov_w1.weight"), w2 = f.tensor<2>(p + "markov_w2.weight");
    const auto proj = f.tensor<1>("weight.confidence_head.proj.weight");
    markov_weights<double> w{kind, w1, w2};
    tensor<double, 2> mixing;
    tensor<double, 1> bias;
    if (kind != markov_kind::vanilla) {
      mixing = f.tensor<2>(p + mix + ".weight"), bias = f.tensor<1>(p + mix + ".bias");
      w.mix = mixing, w.bias = bias;
    }
    const confidence_weights<double> c{proj, f.scalar("weight.confidence_head.proj.bias")};
    index_t blocks = 0;
    for (std::string r = "serve.0."; f.has(r + "hidden"); r = "serve." + std::to_string(++blocks) + ".") {
      const auto hidden = f.tensor<2>(r + "hidden"), logits = f.tensor<2>(r + "logits");
      auto found = f.tensor<2>(r + "base_logits");
      const auto tokens = f.list<std::int32_t>(r + "tokens");  // the anchor first
      markov_chain<double> chain(w);
      std::vector<double> confidence;
      for (index_t k = 0; k < hidden.extent(0); ++k) {
        const std::int32_t previous = tokens[usize(k)];
        chain.add(previous, hidden[k], found[k]);
        confidence.push_back(confidence_of<double>(c, hidden[k], w1[previous]));
        CHECK(likeliest<double>(found[k]) == tokens[usize(k + 1)]);
      }
      close(r + "logits", distance(found, logits), double_tolerance, worst);
      close(r + "confidence", distance(confidence, f.list(r + "confidence")), double_tolerance, worst);
      for (const std::string& n : f.names())
        if (const std::string count = r + "count."; n.starts_with(count))
          CHECK(confident_slots<double>(slice(confidence, 0, std::ssize(confidence)),
                                        std::stod(n.substr(count.size()))) == f.at<index_t>(n, 0));
    }
    CHECK(blocks > 0);
  }
  std::printf("dspark heads: within %.1e\n", worst);
}

// ---- drafters of DeepSeek's block ----
/// Weights of a golden file by name, in double, that may be moved; views of them are views of what is moved.
class named_weights {
 public:
  explicit named_weights(const golden_file& f) {
    for (const std::string& name : f.names())
      if (name.starts_with("weight.")) all_.emplace(name.substr(7), f.tensor<2>(name));
  }
  view<const double, 2> matrix(const std::string& name) const { return all_.at(name); }
  view<const double, 1> vector(const std::string& name) const {
    const auto& x = all_.at(name);
    return {x.data(), x.size()};
  }
  bool has(const std::string& name) const { return all_.contains(name); }
  std::map<std::string, tensor<double, 2>>& all() { return all_; }

 private:
  std::map<std::string, tensor<double, 2>> all_;
};

drafter_weights<double> weights_of(const named_weights& w, index_t stages) {
  drafter_weights<double> out;
  out.embed = w.matrix("embed.weight"), out.head = w.matrix("head.weight");
  out.main_proj = w.matrix("mtp.0.main_proj.weight"), out.main_norm = w.vector("mtp.0.main_norm.weight");
  const auto mixing = [&](const std::string& p) {
    return mixing_weights<double>{w.matrix(p + "_fn"), w.vector(p + "_scale"), w.vector(p + "_base")};
  };
  const auto expert = [&](const std::string& p) {
    return draft_expert<double>{w.matrix(p + ".w1.weight"), w.matrix(p + ".w2.weight"),
                                w.matrix(p + ".w3.weight")};
  };
  for (index_t i = 0; i < stages; ++i) {
    const std::string p = "mtp." + std::to_string(i) + ".", a = p + "attn.", m = p + "ffn.";
    stage_weights<double> s;
    s.hc_attn = mixing(p + "hc_attn"), s.hc_ffn = mixing(p + "hc_ffn");
    s.attn_norm = w.vector(p + "attn_norm.weight"), s.ffn_norm = w.vector(p + "ffn_norm.weight");
    s.wq_a = w.matrix(a + "wq_a.weight"), s.wq_b = w.matrix(a + "wq_b.weight");
    s.wkv = w.matrix(a + "wkv.weight"), s.wo_a = w.matrix(a + "wo_a.weight");
    s.wo_b = w.matrix(a + "wo_b.weight"), s.attn_sink = w.vector(a + "attn_sink");
    s.q_norm = w.vector(a + "q_norm.weight"), s.kv_norm = w.vector(a + "kv_norm.weight");
    s.gate = w.matrix(m + "gate.weight"), s.gate_bias = w.vector(m + "gate.bias");
    for (index_t e = 0; w.has(m + "experts." + std::to_string(e) + ".w1.weight"); ++e)
      s.experts.push_back(expert(m + "experts." + std::to_string(e)));
    s.shared = expert(m + "shared_experts");
    out.stages.push_back(s);
  }
  const std::string p = "mtp." + std::to_string(stages - 1) + ".";
  if (w.has(p + "hc_head_fn")) out.hc_head = mixing(p + "hc_head");
  out.norm = w.vector(p + "norm.weight");
  const bool v4 = w.has(p + "markov_head.markov_w1.weight");
  out.markov.w1 = w.matrix(p + (v4 ? "markov_head.markov_w1.weight" : "markov_head.embed.weight"));
  out.markov.w2 = w.matrix(p + (v4 ? "markov_head.markov_w2.weight" : "markov_head.head.weight"));
  out.confidence.proj = w.vector(p + "confidence_head.proj.weight");
  return out;
}
drafter_settings settings_of(const nlohmann::json& c) {
  drafter_settings s;
  s.block = c.at("K"), s.window = c.at("win"), s.streams = c.at("hc"), s.rotary = c.at("rd");
  s.groups = c.at("og"), s.experts_per_token = c.at("top"), s.noise = c.at("noise_id");
  s.rope_theta = c.at("rope_theta"), s.hc_eps = c.at("hc_eps");
  s.norm_eps = c.contains("eps") ? c.at("eps") : c.at("norm_eps");
  s.sinkhorn_iterations = c.at("hc_sinkhorn_iters"), s.route_scale = c.at("route_scale");
  s.swiglu_limit = c.at("lim");
  return s;
}

/// Directional derivatives of what `value` gives, against the gradients `prefix`NAME of the file, for every weight that has
/// one.  value() is called with the weights moved.
template <class Value>
void check_gradients(const golden_file& f, named_weights& w, const std::string& prefix, double smallest_norm,
                     double step, Value value, const char* report) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  double worst = 0;
  index_t compared = 0;
  for (auto& [name, x] : w.all()) {
    if (!f.has(prefix + name) || name.find("gate.bias") != name.npos) continue;  // moves choices alone
    const auto gradient = f.list(prefix + name);
    std::vector<double> direction(gradient.size());
    double length = 0, norm = 0, expected = 0;
    for (double& d : direction) d = normal(random), length += d * d;
    length = std::sqrt(length);
    for (std::size_t i = 0; i < direction.size(); ++i) {
      direction[i] /= length;
      norm += gradient[i] * gradient[i], expected += gradient[i] * direction[i];
    }
    const auto original = x;
    const auto moved = [&](double by) {
      for (index_t i = 0; i < x.size(); ++i) x.data()[i] = original.data()[i] + by * direction[usize(i)];
      return value();
    };
    const double found = (moved(step) - moved(-step)) / (2 * step);
    std::copy_n(original.data(), x.size(), x.data());
    close(prefix + name, std::fabs(found - expected) / std::max(std::sqrt(norm), smallest_norm),
          gradient_tolerance, worst);
    ++compared;
  }
  CHECK(compared > 0);
  std::printf("%s: %lld gradients within %.1e of their norm\n", report, static_cast<long long>(compared),
              worst);
}

TEST_CASE("dspark: the drafter of V4, dspark-mlx") {
  const golden_file f(file("v4_draft.safetensors"));
  const nlohmann::json c = config_of("v4_draft.safetensors");
  named_weights w(f);
  const index_t stages = c.at("stages"), prompt = f.at<index_t>("prefill_length", 0);
  const drafter_settings s = settings_of(c);
  const drafter_weights<double> weights = weights_of(w, stages);
  const auto features = f.tensor<3>("main_hidden");  // [b, position, l d]
  const index_t batch = f.extent("main_hidden", 0), positions = f.extent("main_hidden", 1);
  const auto tokens = f.tensor<2, std::int32_t>("tokens");
  double worst = 0, worst_stage = 0;
  const auto part = [&](const std::string& name, index_t b) {  // of sequence b
    const auto all = f.list(name);
    const std::size_t n = all.size() / usize(batch);
    return std::vector<double>(all.begin() + std::ptrdiff_t(n) * b,
                               all.begin() + std::ptrdiff_t(n) * (b + 1));
  };
  for (index_t b = 0; b < batch; ++b) {
    drafter<double> d(weights, s);
    const auto accept = [&] {
      REQUIRE(d.accepted() < positions);
      d.accept(features[b][d.accepted()], exact_store{});
    };
    const auto windows = [&](const std::string& when) {
      for (index_t i = 0; i < stages; ++i)
        close(when + ".window", distance(d.ring(i).all(), part(when + ".window" + std::to_string(i), b)),
              float_tolerance, worst);
    };
    const auto drafts = [&](const std::string& when) {
      INFO(when);
      CHECK(d.accepted() - 1 == f.at<index_t>(when + ".position", 0));
      const auto taps = [&](const std::string& name, const auto& x) {
        if (f.has(when + "." + name))
          close(when + "." + name, distance(x, part(when + "." + name, b)), stage_tolerance, worst_stage);
      };
      const std::int32_t anchor = tokens(b, d.accepted() - 1);
      const auto block = d.draft(anchor, exact_store{}, [&](index_t i, const tensor<double, 3>& x) {
        taps("stage" + std::to_string(i) + ".streams", x);
      });
      std::vector<std::int32_t> ids(usize(s.block), s.noise);
      ids[0] = anchor;
      taps("embedded", embedded<double>(weights, s, {ids.data(), s.block}).x);
      tensor<double, 1> main(weights.main_norm.extent(0));
      context_of<double>(weights, s, features[b][d.accepted() - 1], main);
      taps("main_x", main);
      CHECK(anchor == part(when + ".output_ids", b)[0]);
      for (index_t k = 0; k < s.block; ++k)
        CHECK(block.tokens[usize(k)] == part(when + ".output_ids", b)[usize(k + 1)]);
      close(when + ".logits", distance(block.logits, part(when + ".logits", b)), float_tolerance, worst);
      close(when + ".confidence", distance(block.confidence, part(when + ".confidence", b)), stage_tolerance,
            worst_stage);
    };
    while (d.accepted() < prompt) accept();
    windows("prefill");
    for (index_t i = 0; f.has("step" + std::to_string(i) + ".logits"); ++i) {
      accept();
      drafts("step" + std::to_string(i));
    }
    windows("final");
    accept();  // one position without a draft
    accept();
    drafts("after_advance");
  }
  std::printf("dspark V4: logits and windows within %.1e, streams and confidence %.1e\n", worst, worst_stage);

  const auto on_logits = f.tensor<3>("vjp.logits_weight");
  const auto on_confidence = f.tensor<2>("vjp.confidence_weight");
  const auto value = [&] {
    double sum = 0;
    for (index_t b = 0; b < batch; ++b) {
      drafter<double> d(weights, s);
      while (d.accepted() <= prompt) d.accept(features[b][d.accepted()], exact_store{});
      const auto block = d.draft(tokens(b, prompt), exact_store{}, [](index_t, const auto&) {});
      for (index_t k = 0; k < s.block; ++k) {
        sum += block.confidence[usize(k)] * on_confidence(b, k);
        for (index_t v = 0; v < block.logits.extent(1); ++v) sum += block.logits(k, v) * on_logits(b, k, v);
      }
    }
    return sum;
  };
  CHECK(std::fabs(value() / f.scalar("vjp.value") - 1) <= float_tolerance);
  check_gradients(f, w, "vjp.grad.", 1, 1e-6, value, "dspark V4");
}

/// A model of one layer whose drafter, embedding and head are those of the file.
struct model_with_drafter {
  random_model made;
  std::vector<tensor<float, 2>> matrices;

  model_with_drafter(const config& c, const golden_file& f) : made(c, all_f32) {
    const auto values = [&](const std::string& name, auto& v) {
      const auto x = f.tensor<2, float>("weight." + name);
      REQUIRE(x.size() == v.size());
      std::copy_n(x.data(), x.size(), v.data());
    };
    matrices.reserve(1 << 16);
    each_weight(made.weights, made.c, [&](const weight_info& i, auto& field) {
      if (!f.has("weight." + i.name)) {
        CHECK(!i.name.starts_with("mtp."));
        return;
      }
      if constexpr (std::is_same_v<std::decay_t<decltype(field)>, weight_matrix>) {
        const tensor<float, 2>& m = matrices.emplace_back(f.tensor<2, float>("weight." + i.name));
        REQUIRE((m.extent(0) == i.shape[0] && m.extent(1) == i.shape[1]));
        field = {dtype::f32, reinterpret_cast<const std::byte*>(m.data()), i.shape[0], i.shape[1]};
      } else if constexpr (!std::is_same_v<std::decay_t<decltype(field)>, expert_table>) {
        values(i.name, field);
      }
    });
  }
};

TEST_CASE("dspark: the same with the kernels of the model and a checkpoint's weights, dspark-mlx") {
  const golden_file f(file("v4_draft.safetensors"));
  const nlohmann::json c = config_of("v4_draft.safetensors");
  const drafter_settings s = settings_of(c);
  const auto rows = [&](const std::string& name) { return f.extent("weight." + name, 0); };
  config m = tiny_config({0}, s.window);
  m.vocab_size = rows("embed.weight"), m.hidden_size = f.extent("weight.embed.weight", 1);
  m.moe_intermediate_size = rows("mtp.0.ffn.shared_experts.w1.weight");
  m.num_attention_heads = rows("mtp.0.attn.attn_sink"), m.head_dim = rows("mtp.0.attn.kv_norm.weight");
  m.qk_rope_head_dim = s.rotary, m.q_lora_rank = rows("mtp.0.attn.q_norm.weight");
  m.o_groups = s.groups, m.o_lora_rank = rows("mtp.0.attn.wo_a.weight") / s.groups;
  m.n_routed_experts = rows("mtp.0.ffn.gate.weight"), m.num_experts_per_tok = s.experts_per_token;
  m.routed_scaling_factor = s.route_scale, m.swiglu_limit = s.swiglu_limit;
  m.rms_norm_eps = s.norm_eps, m.hc_eps = s.hc_eps, m.hc_mult = s.streams;
  m.hc_sinkhorn_iters = s.sinkhorn_iterations, m.rope_theta = s.rope_theta;
  m.num_nextn_predict_layers = 0, m.compress_ratios = {0};
  const index_t layers = f.extent("weight.mtp.0.main_proj.weight", 1) / m.hidden_size;
  m.dspark = {
      c.at("stages"), s.block, s.noise,
      f.extent("weight.mtp." + std::to_string(int(c.at("stages")) - 1) + ".markov_head.markov_w1.weight", 1),
      std::vector<index_t>(usize(layers), 0)};
  const model_with_drafter all(m, f);
  using P = float32<double>;
  transformer<P, exec::ref> model(m, all.made.weights);

  const auto features = f.tensor<3>("main_hidden");  // [b, position, l d]
  const auto tokens = f.tensor<2, std::int32_t>("tokens");
  const index_t batch = features.extent(0), prompt = f.at<index_t>("prefill_length", 0);
  double worst = 0, worst_confidence = 0;
  for (index_t b = 0; b < batch; ++b) {
    dspark_network<P, exec::ref> d(model, 0);
    index_t accepted = 0;
    const auto accept = [&](index_t n) {
      tensor<double, 3> context(n, layers, m.hidden_size);
      std::copy_n(features[b][accepted].data(), context.size(), context.data());
      d.accept(accepted, context);
      accepted += n;
    };
    const auto drafts = [&](const std::string& when) {
      INFO(when);
      const auto logits = f.tensor<3>(when + ".logits"), confidence = f.tensor<3>(when + ".confidence");
      const auto ids = f.tensor<2, std::int32_t>(when + ".output_ids");
      std::int32_t previous = tokens(b, accepted - 1);
      d.run(previous, accepted);
      for (index_t k = 0; k < s.block; ++k) {
        const double trust = d.follow(k, previous);
        close(when + ".confidence", std::fabs(trust - sigmoid(confidence.data()[b * s.block + k])),
              stage_tolerance, worst_confidence);
        const view<const double, 1> found = d.logits(k);
        for (index_t v = 0; v < m.vocab_size; ++v)
          worst = std::max(worst, std::fabs(found[v] - logits(b, k, v)));
        CHECK(worst <= float_tolerance);
        previous = likeliest(found);
        CHECK(previous == ids(b, k + 1));
      }
    };
    accept(prompt);  // at once; the test above gives position after position
    for (index_t i = 0; f.has("step" + std::to_string(i) + ".logits"); ++i) {
      accept(1);
      drafts("step" + std::to_string(i));
    }
    accept(2);  // one position without a draft
    drafts("after_advance");
  }
  std::printf("dspark V4 with the model's kernels: logits within %.1e, confidence %.1e\n", worst,
              worst_confidence);
}

TEST_CASE("dspark: the drafter of V4.1 in training, nemo_automodel") {
  const golden_file f(file("v41_train.safetensors"));
  const nlohmann::json c = config_of("v41_train.safetensors");
  named_weights w(f);
  const index_t stages = c.at("stages");
  drafter_settings s = settings_of(c);
  s.unit_queries = false, s.reads_with_the_site_before = true;
  s.confidence_reads_raw = false;  // of this port
  const drafter_weights<double> weights = weights_of(w, stages);
  const auto ids = f.tensor<2, std::int32_t>("ids");
  const auto anchors = f.tensor<2, index_t>("anchors");
  const auto keep = f.tensor<2, std::uint8_t>("keep");
  const auto mask = f.tensor<2, std::uint8_t>("loss_mask");
  const auto features = f.tensor<3>("target_hidden"), last = f.tensor<3>("target_last_hidden");
  const index_t batch = ids.extent(0), length = ids.extent(1), each = anchors.extent(1), slots = s.block,
                width = weights.embed.extent(1), vocabulary = weights.embed.extent(0), blocks = batch * each;

  // What does not depend on the weights: labels, masks, targets.
  tensor<std::int32_t, 2> labels(blocks, slots);
  tensor<std::uint8_t, 2> counted(blocks, slots);
  tensor<double, 3> target(blocks, slots, vocabulary);
  index_t wrong = 0;
  for (index_t n = 0; n < blocks; ++n) {
    const index_t b = n / each, a = n % each;
    const training_block block{anchors(b, a), keep(b, a) != 0};
    block.evaluated(mask[b], counted[n]);
    for (index_t k = 0; k < slots; ++k) {
      const index_t at = block.label(k, length);
      labels(n, k) = ids(b, at);
      dspark::detail::product<double>(last[b][std::max(at - 1, index_t{0})], weights.head, target[n][k]);
      wrong += block.anchor + k !=
               f.at<index_t>("position_ids", b * (length + each * slots) + length + a * slots + k);
      const index_t columns = length + each * slots;
      for (index_t x = 0; x < columns; ++x) {  // dummies see themselves
        const bool sees = x < length ? block.kept && block.first_seen(s.window) <= x && x < block.anchor
                                     : (x - length) / slots == a;
        wrong += sees != (f.at<int>("attention_mask", (n * slots + k) * columns + x) != 0);
      }
    }
  }
  CHECK(wrong == 0);
  CHECK(distance(labels, f.tensor<2, std::int32_t>("target_ids")) == 0);
  CHECK(distance(counted, f.tensor<2, std::uint8_t>("eval_mask")) == 0);
  double worst = 0, worst_stage = 0;
  close("aligned_target_logits", distance(target, f.tensor<3>("aligned_target_logits")), float_tolerance,
        worst);

  tensor<double, 3> logits(blocks, slots, vocabulary);
  tensor<double, 2> confidence(blocks, slots);
  /// All blocks; with a prefix, every value of the file under it is compared.
  const auto run = [&](auto store, const std::string& prefix) {
    const auto tap = [&](const std::string& name, index_t n, const auto& x) {
      if (prefix.empty()) return;
      const auto all = f.list(prefix + name);
      const std::size_t size = all.size() / usize(blocks);
      close(prefix + name,
            distance(x, std::vector<double>(all.begin() + std::ptrdiff_t(size) * n,
                                            all.begin() + std::ptrdiff_t(size) * (n + 1))),
            stage_tolerance, worst_stage);
    };
    for (index_t b = 0; b < batch; ++b) {
      tensor<double, 2> context(length, width);
      for (index_t t = 0; t < length; ++t) context_of<double>(weights, s, features[b][t], context[t]);
      if (!prefix.empty())
        close("context", distance(context, f.tensor<3>(prefix + "context")[b]), float_tolerance, worst);
      for (index_t a = 0; a < each; ++a) {
        const index_t n = b * each + a;
        const training_block block{anchors(b, a), keep(b, a) != 0};
        std::vector<std::int32_t> input(usize(slots));
        block.input(ids[b], s.noise, {input.data(), slots});
        draft_streams<double> h = embedded<double>(weights, s, {input.data(), slots});
        const index_t from = block.kept ? block.first_seen(s.window) : 0, seen = block.end_seen() - from;
        for (index_t i = 0; i < stages; ++i) {
          const stage_weights<double>& stage = weights.stages[usize(i)];
          tensor<double, 2> kv(seen, stage.wkv.extent(0));
          for (index_t t = 0; t < seen; ++t)
            key_value<double>(stage, s, context[from + t], from + t, store, kv[t]);
          const auto outputs = run_stage<double>(stage, s, kv, block.anchor, store, h);
          const std::string p = "stage" + std::to_string(i) + ".";
          tap(p + "attn", n, outputs.attn), tap(p + "ffn", n, outputs.ffn);
          tap(p + "streams", n, h.x), tap(p + "pre", n, h.pre);
        }
        auto states = final_states<double>(weights, s, h);
        tap("raw_hidden", n, states.raw), tap("normed_hidden", n, states.normed);
        const auto drafted_block =
            headed<double>(weights, s, std::move(states),
                           [&](index_t k, const draft_block<double>&) { return block.previous(ids[b], k); });
        tap("draft_logits", n, drafted_block.logits), tap("confidence", n, drafted_block.confidence);
        std::copy_n(drafted_block.logits.data(), slots * vocabulary, logits[n].data());
        std::copy_n(drafted_block.confidence.data(), slots, confidence[n].data());
      }
    }
  };
  const drafted<double> x{logits, target, confidence, labels, counted};
  const auto kept = f.list<std::uint8_t>("keep");
  const auto compare = [&](auto store, const std::string& prefix) {
    run(store, prefix);
    close(prefix + "loss", std::fabs(draft_loss<double>(x, {}) - f.scalar(prefix + "loss")), float_tolerance,
          worst);
    const auto m = measured<double>(x, slice(kept, 0, blocks), loss_rule{}.decay);
    close(prefix + "tau", std::fabs(m.expected_tokens - f.scalar(prefix + "tau")), float_tolerance, worst);
    close(prefix + "ce", std::fabs(m.cross_entropy - f.scalar(prefix + "ce")), float_tolerance, worst);
    close(prefix + "l1", std::fabs(m.distance - f.scalar(prefix + "l1")), float_tolerance, worst);
    close(prefix + "bce", std::fabs(m.confidence_loss - f.scalar(prefix + "bce")), float_tolerance, worst);
  };
  compare(fp8_store::v41(), "fp8.");
  compare(exact_store{}, "exact.");
  std::printf("dspark V4.1: loss and its parts within %.1e, streams and logits %.1e\n", worst, worst_stage);

  // The loss's own gradient at the outputs carries every movement of a weight to the loss: the acceptance that the
  // confidence head aims at and the target's logits are constants there.
  tensor<double, 3> dlogits(blocks, slots, vocabulary);
  tensor<double, 2> dconfidence(blocks, slots);
  draft_loss<double>(x, {}, dlogits, dconfidence);
  const auto value = [&] {
    run(exact_store{}, "");
    double sum = 0;
    for (index_t i = 0; i < logits.size(); ++i) sum += dlogits.data()[i] * logits.data()[i];
    for (index_t i = 0; i < confidence.size(); ++i) sum += dconfidence.data()[i] * confidence.data()[i];
    return sum;
  };
  check_gradients(f, w, "exact.grad.", 1e-3, 1e-6, value, "dspark V4.1");
}

}  // namespace
}  // namespace dsv4_test::conformance_dspark
