// SPDX-License-Identifier: MIT
// One training step of the embedded model: tokens per second, share of the Eigen sgemm rate of the same run, memory.
//   build/bench/training [TRAIN.json] [--threads N] [--steps N] [--at-once ROWS] [--recompute] [--plain] [--adamw] [--json]
// --at-once: a step in parts of so many rows.  --plain: no MTP block and no indexer objective, which transformers lacks
// (reference_tests/oracle/train_transformers.py speed --ours measures both by turns).  --adamw: no Muon.
// --json: one line, {"seconds": [of each step], "tokens", "gflop", "sgemm_gflops", "peak_mib", "needed_mib"}.
// TRAIN.json: a training file; default examples/kjv-mini/train.json.  The text is random tokens, which cost the same.
//
// A step is loss, gradients, clipping, Muon, AdamW and the bias of the gates.  GFLOP counts the multiplications and
// additions of matrix products only (2 a multiply-add): forward, both products of the way back, and Newton-Schulz;
// nothing that is computed again (recompute) counts twice.  sgemm: Eigen 1024^3 on as many threads, side by side.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dsv4/dsv4.hpp>
#include <numeric>
#include <random>

namespace {
using namespace dsv4;
using dsv4::index_t;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Eigen sgemm on every thread at once, GFLOP/s together.
double sgemm_gflops(int threads) {
  constexpr index_t n = 1024;
  std::vector<tensor<float, 2>> a(std::size_t(threads), tensor<float, 2>(n, n)), b = a, c = a;
  exec::cpu e{threads};
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    kernel::scope<exec::cpu>::run(e, [&] {
      cpu::parallel_tasks(threads, [&](index_t i) {
        const auto at = std::size_t(i);
        adapt::as_eigen(c[at].all()).noalias() = adapt::as_eigen(a[at].all()) * adapt::as_eigen(b[at].all());
      });
    });
    best = std::max(best, 2e-9 * double(n * n * n * threads) / seconds_since(begin));
  }
  return best;
}

/// Floats that one block keeps of one token for its way back (a CSA block, the largest): train/block.hpp, block_saved.
double block_floats(const config& c) {
  const index_t d = c.hidden_size, n = c.hc_mult, hd = c.head_dim, heads = c.num_attention_heads * hd,
                inner = c.moe_intermediate_size;
  const index_t half = c.hc_mixes() + 2 * n + n * n + 2 + 3 * d;
  const index_t attention =
      2 * c.q_lora_rank + 2 * heads + 2 * c.num_attention_heads + 2 * hd + c.o_groups * c.o_lora_rank;
  const index_t compressors = 4 * (hd + c.index_head_dim) + (c.index_head_dim + 1) * c.index_n_heads;
  const index_t experts = c.num_experts_per_tok * (d + 2 * inner) + 2 * inner + 2 * c.n_routed_experts;
  return double(2 * half + attention + compressors + n * d + experts);
}

/// Multiply-adds of one step over `rows` samples of `length` tokens.
double step_flop(const config& c, const train::parameter_layout& layout, index_t rows, index_t length,
                 bool muon) {
  const double tokens = double(rows * length);
  constexpr double both_ways = 3, weights_only = 2;  // forward, dx, dw; the indexer's inputs are detached
  double macs = 0, newton_schulz = 0;
  for (const train::parameter_info& p : layout.all) {
    if (muon && p.rule == update_rule::muon)
      for (const index_t r : p.matrices) {
        // X X^T and A A (symmetric, but computed as products), B X: ten times
        const double s = double(std::min(r, p.shape[1])), l = double(std::max(r, p.shape[1]));
        newton_schulz += 10 * (s * s * l + s * s * s + s * s * l);
      }
    if (p.shape.size() != 2 || p.name == "embed.weight" || p.name.ends_with(".ape")) continue;
    double uses = tokens;
    if (p.name.find(".experts.") != p.name.npos)
      uses *= double(c.num_experts_per_tok) / double(c.n_routed_experts);
    if (p.name.ends_with("h_proj.weight")) uses *= double(c.hc_mult);
    if (p.name == "head.weight") uses *= double(1 + c.num_nextn_predict_layers);
    macs += double(p.size()) * uses * (p.name.find(".indexer.") == p.name.npos ? both_ways : weights_only);
  }
  // Core attention: q k and P v; back: q k, do k, dz k, dz q, P do.
  constexpr double products = 7;
  for (index_t l = 0; l < c.num_hidden_layers + c.num_nextn_predict_layers; ++l)
    for (index_t t = 0; t < length; ++t) {
      const index_t entries = c.kind(l) == attention_kind::window ? 0 : train::visible_entries(t, c.ratio(l));
      const index_t keys = std::min(t + 1, c.sliding_window) +
                           (c.kind(l) == attention_kind::csa ? std::min(entries, c.index_topk) : entries);
      macs += products * double(rows) * double(keys * c.num_attention_heads * c.head_dim);
      if (c.kind(l) == attention_kind::csa)
        macs += both_ways * double(rows) * double(entries * c.index_n_heads * c.index_head_dim);
    }
  return 2 * (macs + newton_schulz);
}

double resident_mb() {
  struct ::rusage use {};
  ::getrusage(RUSAGE_SELF, &use);
  return double(use.ru_maxrss) / 1024;
}
}  // namespace

int main(int argc, char** argv) try {
  std::string file = DSV4_SOURCE_DIR "/examples/kjv-mini/train.json";
  int threads = 2, steps = 5, at_once = 0;
  bool recompute = false, plain = false, adamw = false, json = false;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--threads") && i + 1 < argc)
      threads = std::atoi(argv[++i]);
    else if (!std::strcmp(argv[i], "--steps") && i + 1 < argc)
      steps = std::atoi(argv[++i]);
    else if (!std::strcmp(argv[i], "--at-once") && i + 1 < argc)
      at_once = std::atoi(argv[++i]);
    else if (!std::strcmp(argv[i], "--recompute"))
      recompute = true;
    else if (!std::strcmp(argv[i], "--plain"))
      plain = true;
    else if (!std::strcmp(argv[i], "--adamw"))
      adamw = true;
    else if (!std::strcmp(argv[i], "--json"))
      json = true;
    else
      file = argv[i];
  }
  const double sgemm_before = sgemm_gflops(threads), base_mb = resident_mb();
  if (steps < 1) throw std::invalid_argument("--steps must be at least 1");
  trainer::settings s = trainer::read_settings(file);
  s.quantise.from = trainer::moment::none();
  s.recompute = recompute;
  s.batch.rows_at_once = at_once;
  if (adamw) s.matrices = trainer::optimiser::adamw;
  if (plain) {
    s.c.num_nextn_predict_layers = 0;
    s.c.compress_ratios.resize(std::size_t(s.c.num_hidden_layers));
  }
  trainer::token_list text;
  std::mt19937 random(1);
  const dsv4::index_t tokens = s.batch.rows * s.data.length * (steps + 3);
  for (dsv4::index_t i = 0; i < tokens; ++i)
    text.ids.push_back(static_cast<std::int32_t>(random() % std::uint32_t(s.c.vocab_size)));
  text.begins = {0, tokens};
  // As it is after the first stages; or before them, where the indexer has no objective.
  s.index_stages.warm_up = s.index_stages.sparse =
      plain ? trainer::moment::none() : trainer::moment::share(0);
  trainer::training<float, exec::cpu, exec::cpu_fast> t(
      s, text, {}, std::vector<std::int32_t>(std::size_t(s.c.vocab_size), 1), {threads});
  t.step();  // memory
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) seconds.push_back(t.step().seconds);
  const double best = *std::min_element(seconds.begin(), seconds.end()),
               mean = std::accumulate(seconds.begin(), seconds.end(), 0.0) / steps;
  const double peak_mb = resident_mb() - base_mb, sgemm = std::max(sgemm_before, sgemm_gflops(threads));
  const double per_step = double(s.batch.rows * s.data.length),
               gflop = 1e-9 * step_flop(s.c, t.layout(), s.batch.rows, s.data.length, !adamw);
  // Weights, gradients, momenta (two for AdamW), and one block's activations of every sequence in flight.
  double moments = 0;
  for (const train::parameter_info& p : t.layout().all)
    moments += double(p.size()) * (p.rule == update_rule::adamw || adamw ? 2 : 1);
  const double rows_in_flight = double(at_once ? at_once : s.batch.rows), words = 4.0 / (1 << 20);
  const double state_mb = words * (2 * double(t.layout().size) + moments);
  const double needed_mb = state_mb + words * rows_in_flight * double(s.data.length) * block_floats(s.c);
  if (json) {
    std::printf("{\"seconds\": [");
    for (const double& one : seconds) std::printf("%s%.4f", &one == seconds.data() ? "" : ", ", one);
    std::printf(
        "], \"tokens\": %.0f, \"gflop\": %.2f, \"sgemm_gflops\": %.1f, \"peak_mib\": %.1f, \"needed_mib\": "
        "%.1f}\n",
        per_step, gflop, sgemm, peak_mb, needed_mb);
    return 0;
  }
  std::printf("%.2f M parameters, %ld rows of %ld tokens a step, %d threads, recompute %s\n",
              double(t.layout().size) * 1e-6, long(s.batch.rows), long(s.data.length), threads,
              s.recompute ? "on" : "off");
  std::printf(
      "%.3f s a step, at best %.3f   %.0f tokens/s, at best %.0f   %.1f GFLOP a step   at best %.1f GFLOP/s "
      "= %.0f %% of sgemm (%.1f)\n",
      mean, best, per_step / mean, per_step / best, gflop, gflop / best, 100 * gflop / best / sgemm, sgemm);
  std::printf(
      "memory %.0f MiB; weights, gradients, momenta %.0f MiB, with one block's activations of %.0f sequences "
      "%.0f MiB: %.2f times\n",
      peak_mb, state_mb, rows_in_flight, needed_mb, peak_mb / needed_mb);
} catch (const std::exception& e) {
  std::fprintf(stderr, "training: %s\n", e.what());
  return 1;
}
