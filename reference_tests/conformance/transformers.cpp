// SPDX-License-Identifier: MIT
// float32 numerics against Hugging Face transformers in float32 (golden/transformers/seed0): logits within
// 1e-4 in one call, prefill and decode, and odd chunks; every tap of the one-shot run within relative L2
// 1e-5; what the caches hold after prefill and after decode.
#include <cstdio>
#include <set>

#include "catch.hpp"
#include "data.hpp"
#include "dsv4/io/checkpoint.hpp"
#include "executors.hpp"
#include "model_run.hpp"

namespace dsv4_test::conformance_transformers {
namespace {

constexpr double logit_tolerance = 1e-4, tap_tolerance = 1e-5;  // docs/verification.md
constexpr index_t prefill_tokens = 160;

/// One stored array as doubles.
struct stored {
  std::vector<index_t> shape;
  std::vector<double> values;
};
stored read(const io::safetensors& file, const std::string& name) {
  const io::tensor_info& t = file.at(name);
  stored s{t.shape, std::vector<double>(static_cast<std::size_t>(t.elements))};
  for (std::size_t i = 0; i < s.values.size(); ++i) {
    if (t.type == dtype::f32) {
      float v;
      std::memcpy(&v, t.data + 4 * i, 4);
      s.values[i] = v;
    } else {
      REQUIRE(t.type == dtype::i64);
      std::int64_t v;
      std::memcpy(&v, t.data + 8 * i, 8);
      s.values[i] = static_cast<double>(v);
    }
  }
  return s;
}

struct bundle {
  io::checkpoint checkpoint;
  io::safetensors logits, taps;
  std::vector<std::int32_t> ids;
};
/// Null when the goldens are not here.
const bundle* seed0() {
  const auto dir = golden("transformers/seed0");
  if (!dir) return nullptr;
  static const bundle b = [&] {
    // The project's own copy is compressed.
    const auto file = [&](const char* name) { return io::detail::plain_or_compressed(*dir / name); };
    bundle r{io::checkpoint::open(file("weights.safetensors")),
             io::safetensors::open(file("logits.safetensors")),
             io::safetensors::open(file("taps.safetensors")),
             {}};
    for (const double id : read(r.logits, "input_ids").values) r.ids.push_back(static_cast<std::int32_t>(id));
    return r;
  }();
  return &b;
}

/// max |ours - golden|.
template <class W>
double worst(const rows_of<W>& ours, const stored& golden) {
  REQUIRE(ours.values.size() == golden.values.size());
  double w = 0;
  for (std::size_t i = 0; i < golden.values.size(); ++i)
    w = std::max(w, std::fabs(double(ours.values[i]) - golden.values[i]));
  return w;
}
double relative_l2(const std::vector<double>& ours, const std::vector<double>& golden) {
  if (ours.size() != golden.size()) return INFINITY;
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    difference += (ours[i] - golden[i]) * (ours[i] - golden[i]);
    size += golden[i] * golden[i];
  }
  if (size == 0) return difference == 0 ? 0 : INFINITY;
  return std::sqrt(difference / size);
}

/// Our site for a module of transformers; empty when there is none.
std::string site_of(const std::string& module) {
  static const std::map<std::string, std::string> of_layer{
      {"", "out"},
      {".attn_hc.0", "hc_attn.post"},
      {".attn_hc.1", "hc_attn.comb"},
      {".attn_hc.2", "hc_attn.y"},
      {".ffn_hc.0", "hc_ffn.post"},
      {".ffn_hc.1", "hc_ffn.comb"},
      {".ffn_hc.2", "hc_ffn.y"},
      {".input_layernorm", "attn_norm"},
      {".self_attn.q_a_norm", "attn.qr"},
      {".self_attn.kv_norm", "attn.kv_norm"},
      {".self_attn.compressor.kv_norm", "attn.compressor.norm"},
      {".self_attn.compressor.0", "attn.compressor.entry"},
      {".self_attn.compressor.indexer.kv_norm", "attn.indexer.compressor.norm"},
      {".self_attn.compressor.indexer.scorer", "attn.indexer.scores"},
      {".self_attn.compressor.indexer", "attn.topk_idxs"},
      {".self_attn.o_a_proj.in.0", "attn.o_derot"},
      {".self_attn.0", "attn.out"},
      {".mlp", "ffn.out"},
      {".mlp.gate.0", "ffn.gate.scores"},
      {".mlp.gate.1", "ffn.gate.weights"},
      {".mlp.gate.2", "ffn.gate.indices"},
  };
  static const std::map<std::string, std::string> of_model{{"model.hc_head", "head.hc_head.y"},
                                                           {"model.norm", "head.norm"},
                                                           {"lm_head", "head.logits"},
                                                           {"logits", "head.logits"}};
  if (const auto found = of_model.find(module); found != of_model.end()) return found->second;
  const std::string prefix = "model.layers.";
  if (!module.starts_with(prefix)) return {};
  const std::size_t end = std::min(module.find('.', prefix.size()), module.size());
  const auto found = of_layer.find(module.substr(end));
  if (found == of_layer.end()) return {};
  return "layers." + module.substr(prefix.size(), end - prefix.size()) + "." + found->second;
}

/// The indexer's picks [t, k] from our slots: those behind the window, less the tokens of the call.
std::vector<double> picks(const recorder::value& slots, index_t window, index_t tokens) {
  std::vector<double> r;
  for (index_t t = 0; t < slots.rows(); ++t)
    for (index_t s = window; s < slots.width; ++s)
      r.push_back(slots(t, s) < 0 ? -1 : slots(t, s) - double(tokens));
  return r;
}

/// Caches of one sequence against cache_after_*.safetensors.
template <class Sequence>
void check_caches(const bundle& b, const Sequence& s, const std::filesystem::path& file) {
  const auto caches = io::safetensors::open(file);
  const config& c = b.checkpoint.configuration();
  const index_t n = s.length();
  double worst_error = 0;
  index_t compared = 0;
  const auto check = [&](const std::string& name, const std::vector<double>& ours) {
    const stored golden = read(caches, name);
    const double error = relative_l2(ours, golden.values);
    INFO(name << ": relative L2 " << error << ", " << ours.size() << " values, golden "
              << golden.values.size());
    CHECK(error <= tap_tolerance);
    worst_error = std::max(worst_error, error);
    ++compared;
  };
  for (index_t l = 0; l < c.num_hidden_layers; ++l) {
    const auto& state = s.layer(l);
    const std::string cache = "cache." + std::to_string(l) + ".";
    // The last W-1 keys.
    std::vector<double> window;
    for (index_t p = n - c.sliding_window + 1; p < n; ++p)
      for (index_t d = 0; d < c.head_dim; ++d) window.push_back(state.window.row(p)[d]);
    check(cache + "window", window);

    const index_t ratio = c.ratio(l), closed = ratio ? n / ratio : 0;
    const auto compressor = [&](const auto& own, const compressor_weights<>& w, const std::string& which) {
      const index_t d = w.norm.extent(0);
      std::vector<double> entries, kv, gate, before_kv, before_gate;
      for (index_t i = 0; i < closed * d; ++i) entries.push_back(own.entries.data()[i]);
      check(cache + "compressed_kv." + which, entries);
      // The open block: transformers keeps the gate without ape.
      for (index_t p = closed * ratio; p < n; ++p)
        for (index_t i = 0; i < own.kv.width(); ++i) {
          kv.push_back(own.kv.row(p)[i]);
          gate.push_back(own.score.row(p)[i] - w.ape(p % ratio, i));
        }
      check(cache + "buffer_kv." + which, kv);
      check(cache + "buffer_gate." + which, gate);
      if (kind_of_ratio(ratio) != attention_kind::csa) return;
      // The previous block's first half, gate with ape.
      for (index_t p = (closed - 1) * ratio; p < closed * ratio; ++p)
        for (index_t i = 0; i < d; ++i) {
          before_kv.push_back(own.kv.row(p)[i]);
          before_gate.push_back(own.score.row(p)[i]);
        }
      check(cache + "overlap_kv." + which, before_kv);
      check(cache + "overlap_gate." + which, before_gate);
    };
    const attention_weights<>& w = b.checkpoint.weights().layers[static_cast<std::size_t>(l)].attn;
    if (w.compressor) compressor(state.compressor, *w.compressor, "compressor");
    if (w.indexer) compressor(state.indexer, w.indexer->compressor, "indexer");
  }
  CHECK(compared + 1 == static_cast<index_t>(caches.tensors().size()));  // all but input_ids
  std::printf("transformers/seed0: caches at %lld tokens, worst relative L2 %.2g\n",
              static_cast<long long>(n), worst_error);
}

}  // namespace

TEMPLATE_TEST_CASE("float32 equals transformers in one call, tap by tap", "[golden][float32]",
                   DSV4_TEST_EXECUTORS) {
  const bundle* b = seed0();
  if (!b) SKIP("golden/transformers/seed0 is not here (set DSV4_GOLDEN)");
  runner<float32<float>, TestType> run(b->checkpoint.configuration(), b->checkpoint.weights());
  recorder seen;
  const auto logits = run.fresh(b->ids, {1000}, seen);
  const double error = worst(logits, read(b->logits, "oneshot"));
  CHECK(error <= logit_tolerance);

  const auto tokens = static_cast<index_t>(b->ids.size());
  double worst_tap = 0;
  std::string worst_name;
  index_t compared = 0, exchanged = 0;
  for (const auto& t : b->taps.tensors()) {
    if (t.name == "input_ids") continue;
    const stored golden = read(b->taps, t.name);
    if (t.name == "model.embed_tokens") {
      tensor<float, 2> row(tokens, run.c().hidden_size);
      exec::ref e;
      embed(e, {b->ids.data(), tokens}, b->checkpoint.weights().embed, row.all());
      CHECK(std::equal(golden.values.begin(), golden.values.end(), row.data(), row.data() + row.size()));
      ++compared;
      continue;
    }
    const std::string site = site_of(t.name);
    INFO(t.name << " against " << site);
    REQUIRE(!site.empty());
    const recorder::value& own = seen.at(site);
    if (t.name.ends_with("indexer")) {
      // Listed by falling score in both; two scores closer than rounding may change places.
      const auto ours = picks(own, run.c().sliding_window, tokens);
      const auto& scores = seen.at(site.substr(0, site.size() - 9) + "indexer.scores");
      const index_t k = golden.shape.back();
      index_t moved = 0;
      REQUIRE(ours.size() == golden.values.size());
      for (std::size_t i = 0; i < ours.size(); ++i) {
        if (ours[i] == golden.values[i]) continue;
        ++moved;
        REQUIRE(ours[i] >= 0);
        REQUIRE(golden.values[i] >= 0);
        const index_t row = static_cast<index_t>(i) / k;
        CHECK(std::fabs(scores(row, index_t(ours[i])) - scores(row, index_t(golden.values[i]))) <
              tap_tolerance);
      }
      CHECK(moved * 100 <= static_cast<index_t>(ours.size()));
      exchanged += moved;
    } else {
      stored expected = golden;
      // Logits of the gate: ours are sqrt(softplus(logit)).
      if (t.name.ends_with("gate.0"))
        for (double& v : expected.values) v = std::sqrt(softplus(v));
      const double relative = relative_l2(own.values, expected.values);
      INFO("relative L2 " << relative);
      CHECK(relative <= (t.type == dtype::i64 ? 0 : tap_tolerance));
      if (relative > worst_tap) worst_tap = relative, worst_name = t.name;
    }
    ++compared;
  }
  CHECK(compared + 1 == static_cast<index_t>(b->taps.tensors().size()));
  std::printf(
      "transformers/seed0: one call, logits within %.2g; %lld taps, worst relative L2 %.2g (%s), %lld picks "
      "exchanged\n",
      error, static_cast<long long>(compared), worst_tap, worst_name.c_str(),
      static_cast<long long>(exchanged));
}

TEMPLATE_TEST_CASE("float32 equals transformers in prefill and decode, caches included", "[golden][float32]",
                   DSV4_TEST_EXECUTORS) {
  const bundle* b = seed0();
  if (!b) SKIP("golden/transformers/seed0 is not here (set DSV4_GOLDEN)");
  const auto dir = *golden("transformers/seed0");
  runner<float32<float>, TestType> run(b->checkpoint.configuration(), b->checkpoint.weights());
  auto s = run.m.new_sequence(static_cast<index_t>(b->ids.size()));
  const std::span<const std::int32_t> ids(b->ids);
  auto logits = run.forward(s, ids.first(prefill_tokens));
  check_caches(*b, s, dir / "cache_after_prefill.safetensors.zst");
  logits.append(run.forward(s, ids.subspan(prefill_tokens), {1}));
  check_caches(*b, s, dir / "cache_after_decode.safetensors.zst");
  const double error = worst(logits, read(b->logits, "prefill_decode"));
  CHECK(error <= logit_tolerance);
  std::printf("transformers/seed0: prefill and decode, logits within %.2g\n", error);
}

TEMPLATE_TEST_CASE("float32 equals transformers in odd chunks", "[golden][float32]", DSV4_TEST_EXECUTORS) {
  const bundle* b = seed0();
  if (!b) SKIP("golden/transformers/seed0 is not here (set DSV4_GOLDEN)");
  runner<float32<float>, TestType> run(b->checkpoint.configuration(), b->checkpoint.weights());
  const auto logits = run.fresh(b->ids, {5, 1, 9, 3, 2, 130, 1, 1, 64});
  const double error = worst(logits, read(b->logits, "chunked"));
  CHECK(error <= logit_tolerance);
  std::printf("transformers/seed0: odd chunks, logits within %.2g\n", error);
}

}  // namespace dsv4_test::conformance_transformers
