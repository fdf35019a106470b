// SPDX-License-Identifier: MIT
// exec::cpu_fast, official numerics.  Free-running it cannot be compared (docs/numerics.md: quantised activations
// amplify the last bit), so every operator is fed golden inputs: each tap is judged against the golden
// and then replaced by it.  Bounds: the `faithful` column of docs/verification.md.
#include <array>

#include <dsv4/cpu/cpu.hpp>
#include "golden_run.hpp"

#include "catch.hpp"

namespace {
using dsv4::index_t;
using dsv4::site;

/// What a site's error is measured by.
enum class judge { choice, code, elementwise, reduction, stored, attention, product, logits };

judge judge_of(site s) {
  switch (s) {
    case site::attn_topk_idxs:
    case site::gate_indices: return judge::choice;
    case site::attn_kv:
    case site::indexer_q:
    case site::compressor_entry:
    case site::indexer_compressor_entry: return judge::code;
    case site::hc_attn_pre:
    case site::hc_attn_post:
    case site::hc_attn_comb:
    case site::hc_ffn_pre:
    case site::hc_ffn_post:
    case site::hc_ffn_comb:
    case site::hc_head_pre:
    case site::gate_biased:
    case site::gate_weights: return judge::elementwise;
    case site::gate_scores:
    case site::hc_attn_mixes:
    case site::hc_ffn_mixes: return judge::reduction;
    case site::attn_o: return judge::attention;
    case site::attn_qr:
    case site::attn_q_norm:
    case site::attn_kv_norm:
    case site::attn_out:
    case site::ffn_routed:
    case site::ffn_shared:
    case site::ffn_out: return judge::product;
    case site::logits: return judge::logits;
    default: return judge::stored;
  }
}

/// Errors of one site over the whole run.
struct tally {
  double aa = 0, bb = 0, ab = 0, dd = 0;    // sums of squares, product, squared difference
  double worst_ulp = 0, worst_element = 0;  // scaled ulp; |a-b| / (2e-5 rms + 1e-5 |b|)
  double worst_attention = 0;               // |a-b| / max(1e-3 rms, 2/128 |b|)
  double worst_step = 0;                    // |a-b| in code steps (upper bound: one eighth of the binade)
  index_t values = 0, different = 0, rows = 0, top1 = 0;
  double kl_sum = 0, kl_max = 0;

  double calc_diff() const { return aa + bb > 0 ? std::max(0.0, 1 - 2 * ab / (aa + bb)) : 0; }
  double cosine_diff() const { return aa * bb > 0 ? 1 - ab / std::sqrt(aa * bb) : 0; }
  double relative() const { return bb > 0 ? std::sqrt(dd / bb) : 0; }
  double mismatch() const { return values ? double(different) / double(values) : 0; }
};

/// Judges and replaces.
class forcing {
 public:
  static constexpr bool on = true;
  explicit forcing(const conformance::bundle& b) : b_(b) {}
  std::array<tally, static_cast<std::size_t>(site::count)> tallies{};

  void operator()(const dsv4::tap_event& e) {
    const bool mtp =
        e.scope.where == dsv4::tap_scope::part::mtp || e.scope.where == dsv4::tap_scope::part::mtp_head;
    const std::string name = e.scope.where == dsv4::tap_scope::part::mtp_head
                                 ? "head." + std::string(dsv4::info(e.where).name)
                                 : e.name();
    char call[32];
    std::snprintf(call, sizeof call, "decode%05lld/", static_cast<long long>(e.start));
    const auto* g = b_.taps.find((mtp ? "prefill_mtp/" : e.start == 0 ? "prefill/" : call) + name);
    if (!g) return;
    REQUIRE(g->elements == e.size());
    // A row is the last axis: errors are measured against the root mean square of one head, one token.
    const index_t n = e.shape[static_cast<std::size_t>(e.rank - 1)], rows = e.size() / n;
    tally& t = tallies[static_cast<std::size_t>(e.where)];
    for (index_t r = 0; r < rows; ++r) row(e, *g, r * n, n, t);
    replace(e, *g);
  }

 private:
  static void row(const dsv4::tap_event& e, const dsv4::io::tensor_info& g, index_t from, index_t n,
                  tally& t) {
    double energy = 0;
    for (index_t i = from; i < from + n; ++i) energy += std::pow(conformance::element(g, i), 2);
    const double rms = std::sqrt(energy / double(n));
    ++t.rows;
    t.values += n;
    for (index_t i = from; i < from + n; ++i) {
      const double a = conformance::element(e, i), b = conformance::element(g, i), d = std::fabs(a - b);
      t.aa += a * a, t.bb += b * b, t.ab += a * b, t.dd += d * d;
      if (!(a == b)) ++t.different;
      // One bf16 ulp at |b|, or at 1/16 of the row's rms where |b| is smaller.
      const double ulp = std::ldexp(1.0, std::ilogb(std::max({std::fabs(b), rms / 16, 1e-30})) - 7);
      t.worst_ulp = std::max(t.worst_ulp, d / ulp);
      t.worst_element = std::max(t.worst_element, d / (2e-5 * rms + 1e-5 * std::fabs(b) + 1e-300));
      t.worst_attention =
          std::max(t.worst_attention, d / std::max({1e-3 * rms, 2.0 / 128 * std::fabs(b), 1e-300}));
      t.worst_step = std::max(t.worst_step, d / (std::max(std::fabs(a), std::fabs(b)) / 2 + 1e-300));
    }
    if (e.where != site::logits) return;
    // KL(golden || test) of the row and the most likely token.
    double ma = -INFINITY, mb = -INFINITY, sa = 0, sb = 0, kl = 0;
    index_t ta = 0, tb = 0;
    for (index_t i = 0; i < n; ++i) {
      const double a = conformance::element(e, from + i), b = conformance::element(g, from + i);
      if (a > ma) ma = a, ta = i;
      if (b > mb) mb = b, tb = i;
    }
    for (index_t i = 0; i < n; ++i)
      sa += std::exp(conformance::element(e, from + i) - ma),
          sb += std::exp(conformance::element(g, from + i) - mb);
    for (index_t i = 0; i < n; ++i) {
      const double la = conformance::element(e, from + i) - ma - std::log(sa);
      const double lb = conformance::element(g, from + i) - mb - std::log(sb);
      kl += std::exp(lb) * (lb - la);
    }
    t.kl_sum += kl;
    t.kl_max = std::max(t.kl_max, kl);
    t.top1 += ta == tb;
  }
  static void replace(const dsv4::tap_event& e, const dsv4::io::tensor_info& g) {
    for (index_t i = 0; i < e.size(); ++i) {
      const double v = conformance::element(g, i);
      const auto at = static_cast<std::size_t>(i);
      switch (e.type) {
        case dsv4::dtype::bf16: e.values<dsv4::bf16>()[at] = dsv4::round_bf16(v); break;
        case dsv4::dtype::f32: e.values<float>()[at] = static_cast<float>(v); break;
        case dsv4::dtype::f64: e.values<double>()[at] = v; break;
        default: e.values<std::int32_t>()[at] = static_cast<std::int32_t>(v);
      }
    }
  }
  const conformance::bundle& b_;
};

void check(const char* name) {
  const auto dir = golden(std::string("official/") + name);
  if (!dir) SKIP("golden/official/" << name << " is not here (set DSV4_GOLDEN)");
  const auto b = conformance::bundle::open(*dir);
  forcing force(b);
  conformance::run<dsv4::official, dsv4::exec::cpu_fast>(b, {1000}, force);
  // float sums of K terms: relL2 <= 2^-24 * 8 * sqrt(K), K at most n D here
  const double reduction = std::ldexp(8.0, -24) * std::sqrt(double(b.c().hc_mult * b.c().hidden_size));
  for (std::size_t s = 0; s < force.tallies.size(); ++s) {
    const tally& t = force.tallies[s];
    if (t.values == 0) continue;
    INFO(name << " " << dsv4::sites[s].name << ": " << t.values << " values, mismatch " << t.mismatch()
              << ", calc_diff " << t.calc_diff() << ", relL2 " << t.relative() << ", scaled ulp "
              << t.worst_ulp << ", elementwise " << t.worst_element << ", attention " << t.worst_attention);
    switch (judge_of(static_cast<site>(s))) {
      case judge::choice: CHECK(t.different == 0); break;
      case judge::code:
        CHECK(t.mismatch() <= 0.005);
        CHECK(t.worst_step <= 1);  // neighbours of e2m1 differ by at most half of the larger one
        break;
      case judge::elementwise:
        CHECK(t.worst_element <= 1);
        CHECK(t.calc_diff() <= 1e-10);
        break;
      case judge::reduction:
        CHECK(t.relative() <= reduction);
        CHECK(t.calc_diff() <= 1e-8);
        break;
      case judge::attention:
        CHECK(t.worst_attention <= 1);
        CHECK(t.cosine_diff() <= 5e-6);
        break;
      case judge::product: CHECK(t.calc_diff() <= 2e-5); break;
      case judge::stored:
        CHECK(t.mismatch() <= 0.02);
        CHECK(t.worst_ulp <= 4);
        CHECK(t.calc_diff() <= 1e-5);
        break;
      case judge::logits:
        CHECK(t.dd / t.bb <= 1e-4);
        CHECK(t.kl_sum / double(t.rows) <= 1e-3);
        CHECK(t.kl_max <= 2e-2);
        CHECK(double(t.top1) / double(t.rows) >= 0.99);
        break;
    }
  }
}
/// Logits of all tokens of the bundle, chunk tokens a call, alone or beside another sequence.
dsv4::tensor<float, 2> logits_of(const conformance::bundle& b, index_t chunk, int threads,
                                 bool beside_another) {
  using model = dsv4::transformer<dsv4::official, dsv4::exec::cpu_fast>;
  model m(b.c(), b.checkpoint.weights(), dsv4::exec::cpu_fast{threads});
  const auto n = static_cast<index_t>(b.ids.size());
  auto own = m.new_sequence(n), other = m.new_sequence(2 * n);
  dsv4::tensor<float, 2> all(n, b.c().vocab_size), both(2 * n + 3, b.c().vocab_size);
  const std::span<const std::int32_t> ids(b.ids);
  for (index_t p = 0; p < n; p += chunk) {
    const index_t t = std::min(chunk, n - p);
    const model::input batch[] = {{&own, ids.subspan(std::size_t(p), std::size_t(t))},
                                  {&other, ids.last(std::size_t(t / 2 + 1))}};
    const index_t rows = beside_another ? t + t / 2 + 1 : t;
    m.forward(std::span(batch, beside_another ? 2 : 1), {both.all().rows(0, rows), {}});
    std::copy_n(both.data(), t * b.c().vocab_size, all[p].data());
  }
  return all;
}
}  // namespace

// Threads, chunks and batch never change a bit of cpu_fast, free-running through the whole model.
TEST_CASE("cpu_fast has one order of sums", "[golden][fast]") {
  for (const char* name : {"flash-mini", "base-mini", "real-ratio"}) {
    const auto dir = golden(std::string("official/") + name);
    if (!dir) continue;  // flash-mini is always here
    const auto b = conformance::bundle::open(*dir);
    const auto one = logits_of(b, 1000, 1, false);
    for (const auto& [chunk, threads, batch] : {std::tuple<dsv4::index_t, int, bool>{1000, 2, false},
                                                {1, 1, false},
                                                {7, 2, false},
                                                {13, 2, true},
                                                {1, 2, true}}) {
      INFO(name << ", chunk " << chunk << ", threads " << threads << (batch ? ", in a batch" : ""));
      CHECK(std::memcmp(one.data(), logits_of(b, chunk, threads, batch).data(),
                        std::size_t(one.size()) * 4) == 0);
    }
  }
}

// The three bundles that hold every site; real-ratio and edge-mini hold a subset, which leaves whole
// chains of operators between two golden inputs.
TEST_CASE("cpu_fast is faithful on flash-mini, operator by operator", "[golden][fast]") {
  check("flash-mini");
}
TEST_CASE("cpu_fast is faithful on pro-mini, operator by operator", "[golden][fast]") { check("pro-mini"); }
TEST_CASE("cpu_fast is faithful on base-mini, operator by operator", "[golden][fast]") { check("base-mini"); }
