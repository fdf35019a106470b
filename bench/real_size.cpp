// SPDX-License-Identifier: MIT
// Operators of DeepSeek-V4-Flash at their real sizes, each as a share of what the machine gives in the same moments:
// decode against reading memory, the others against Eigen's sgemm.  Weights are quantised Gaussians.
//
//   bench/real_size [--rounds N] [--threads N] [--only PART OF A NAME] [--json]
//
// A round runs the ceilings and both modes of an operator one after the other and gives one ratio per mode; a line shows
// the medians over the rounds.  With one thread the thread's own time counts, with more the wall clock.
#include "machine.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include <nlohmann/json.hpp>

#include <dsv4/cpu/attn/indexer.hpp>
#include <dsv4/cpu/attn/sparse_attention.hpp>
#include <dsv4/cpu/moe/expert.hpp>

namespace dsv4 {
namespace {
using namespace bench;

constexpr index_t hidden = 4096, inner = 2048, heads = 64, head_dim = 512, index_dim = 128;
constexpr std::size_t beyond_cache = std::size_t{320} << 20;

std::mt19937_64 random_bits(1);

/// Codes of a Gaussian whose 4.5 sigma is the format's largest value (bf16: of sigma 1).
std::vector<std::byte> gaussian_codes(dtype type, std::size_t bytes) {
  constexpr std::size_t some = 1 << 16;
  std::normal_distribution<double> normal(0, 1);
  std::vector<std::byte> table(some), out(bytes);
  for (std::size_t i = 0; i < some; i += 2) {
    const double a = normal(random_bits), b = normal(random_bits);
    if (type == dtype::bf16) {
      const bf16 v = bf16::encode(a);
      std::memcpy(&table[i], &v, 2);
    } else if (type == dtype::f8_e4m3) {
      table[i] = std::byte{e4m3::encode(std::clamp(a, -4.5, 4.5) * 99).bits};
      table[i + 1] = std::byte{e4m3::encode(std::clamp(b, -4.5, 4.5) * 99).bits};
    } else {
      for (std::size_t j = 0; j < 2; ++j)
        table[i + j] =
            static_cast<std::byte>(e2m1::encode(std::clamp(2 * normal(random_bits), -6., 6.)).bits |
                                   e2m1::encode(std::clamp(2 * normal(random_bits), -6., 6.)).bits << 4);
    }
  }
  for (std::size_t i = 0; i < bytes; i += 64)
    std::memcpy(&out[i], &table[random_bits() % (some / 64) * 64], std::min<std::size_t>(64, bytes - i));
  return out;
}

/// Matrices of one shape that together exceed every cache.
struct matrices {
  std::vector<std::byte> memory, scales;
  std::vector<weight_matrix> all;
  std::size_t bytes;  // of one

  matrices(dtype type, index_t rows, index_t cols, std::size_t together = beyond_cache) {
    weight_matrix w;
    w.type = type;
    w.rows = rows;
    w.cols = cols;
    bytes = static_cast<std::size_t>(rows * w.row_bytes());
    std::size_t own_scales = 0;
    if (w.quantised()) {
      w.tile_rows = type == dtype::f8_e4m3 ? fp8_tile : 1;
      w.tile_cols = type == dtype::f8_e4m3 ? fp8_tile : fp4_tile_cols;
      own_scales = static_cast<std::size_t>(cpu::ceil_div(rows, w.tile_rows) * w.scale_cols());
    }
    const std::size_t copies = std::max<std::size_t>(1, together / bytes);
    memory = gaussian_codes(type, bytes * copies);
    scales.resize(own_scales * copies);
    for (auto& s : scales) s = static_cast<std::byte>(119 + random_bits() % 3);
    for (std::size_t i = 0; i < copies; ++i) {
      w.data = memory.data() + i * bytes;
      if (own_scales) w.scale = scales.data() + i * own_scales;
      all.push_back(w);
    }
    bytes += own_scales;
  }
};

tensor<bf16, 2> gaussian(index_t rows, index_t cols) {
  tensor<bf16, 2> x(rows, cols);
  std::normal_distribution<double> normal(0, 1);
  for (bf16& v : x.all()) v = bf16::encode(normal(random_bits));
  return x;
}

/// One line of the table: work of one call, and the call in both modes.
struct measured {
  std::string name;
  double bytes = 0, flop = 0;  // a call's; bytes 0: against sgemm
  std::function<void(exec::cpu_fast&)> fast;
  std::function<void(exec::cpu&)> exact;
};
template <class F>
measured operation(std::string name, double bytes, double flop, F f) {
  return {std::move(name), bytes, flop, [f](exec::cpu_fast& e) { f(e); }, [f](exec::cpu& e) { f(e); }};
}

measured product(const std::string& name, dtype type, index_t rows, index_t cols, index_t tokens,
                 bool wide = false) {
  struct subject {
    matrices w;
    tensor<bf16, 2> x, y;
    tensor<double, 2> y_wide;
    tensor<e4m3, 2> code;
    tensor<float, 2> scale;
    std::size_t next = 0;
  };
  auto s = std::make_shared<subject>(subject{{type, rows, cols, tokens == 1 ? beyond_cache : 0},
                                             gaussian(tokens, cols),
                                             tensor<bf16, 2>(tokens, rows),
                                             tensor<double, 2>(tokens, rows),
                                             tensor<e4m3, 2>(tokens, cols),
                                             tensor<float, 2>(tokens, cols / fp8_tile)});
  exec::cpu e;
  act_quant(e, s->x.all(), s->code.all(), s->scale.all());
  return operation(name, tokens == 1 ? double(s->w.bytes) : 0, 2.0 * double(tokens * rows * cols),
                   [s, wide](auto& mode) {
                     const weight_matrix& w = s->w.all[s->next++ % s->w.all.size()];
                     if (w.quantised())
                       linear(mode, quantised_activations{s->code.all(), s->scale.all()}, w, s->y.all());
                     else if (wide)
                       linear(mode, s->x.all(), w, s->y_wide.all());
                     else
                       linear(mode, s->x.all(), w, s->y.all());
                   });
}

/// 6 of 24 experts per token.
measured experts(index_t tokens) {
  constexpr index_t count = 24, chosen = 6;
  struct subject {
    matrices up{dtype::f4_e2m1, inner, hidden}, down{dtype::f4_e2m1, hidden, inner};
    std::vector<expert_weights<>> all;
    tensor<bf16, 2> x;
    tensor<std::int32_t, 2> index;
    workspace scratch;
    index_t next = 0;
  };
  auto s = std::make_shared<subject>();
  for (std::size_t i = 0; i < count; ++i)
    s->all.push_back({s->up.all[2 * i], s->up.all[2 * i + 1], s->down.all[i]});
  s->x = gaussian(tokens, hidden);
  s->index = tensor<std::int32_t, 2>(tokens, chosen);
  const double bytes = double(3 * s->up.bytes * chosen);
  return operation(tokens == 1 ? "FP4 experts, 6" : "FP4 experts, t=" + std::to_string(tokens),
                   tokens == 1 ? bytes : 0, 2.0 * double(tokens * chosen * 3 * hidden * inner),
                   [s, tokens](auto& e) {
                     using W = wide_t<std::remove_reference_t<decltype(e)>>;
                     for (index_t t = 0; t < tokens; ++t)
                       for (index_t j = 0; j < chosen; ++j)
                         s->index(t, j) = static_cast<std::int32_t>((s->next + 4 * j + 5 * t) % count);
                     s->next += 1;
                     tensor<W, 2> weights(tokens, chosen), routed(tokens, hidden);
                     for (W& w : weights.all()) w = W(0.25);
                     kernel::experts<std::remove_reference_t<decltype(e)>>::template run<official>(
                         e, s->scratch, s->x, routing<W>{s->index, weights}, s->all, 10.0, routed.all());
                   });
}

measured index_scores(index_t entries) {
  struct subject {
    tensor<bf16, 2> q, keys, weights, scores;
  };
  auto s = std::make_shared<subject>(subject{gaussian(heads, index_dim), gaussian(entries, index_dim),
                                             gaussian(1, heads), tensor<bf16, 2>(1, entries)});
  exec::cpu e;
  fp4_act_quant(e, s->q.all());
  fp4_act_quant(e, s->keys.all());
  return operation("index scores, " + std::to_string(entries), 0, 2.0 * double(heads * entries * index_dim),
                   [s](auto& mode) {
                     using E = std::remove_reference_t<decltype(mode)>;
                     kernel::index_scores<E>::run(
                         mode, view<const bf16, 3>(s->q.all().reshape(1, heads, index_dim)),
                         view<const bf16, 2>(s->keys), view<const bf16, 2>(s->weights), s->scores.all());
                   });
}

measured attention(index_t chosen) {
  constexpr index_t window = 128;
  struct subject {
    tensor<bf16, 2> q, recent, entries, o;
    tensor<std::int32_t, 2> chosen;
    tensor<float, 1> sink;
  };
  auto s = std::make_shared<subject>(subject{gaussian(heads, head_dim), gaussian(window, head_dim),
                                             gaussian(2 * chosen, head_dim), tensor<bf16, 2>(heads, head_dim),
                                             tensor<std::int32_t, 2>(1, chosen), tensor<float, 1>(heads)});
  for (index_t i = 0; i < chosen; ++i) s->chosen(0, i) = static_cast<std::int32_t>(2 * i);
  return operation("attention, " + std::to_string(window + chosen) + " slots", 0,
                   4.0 * double(heads * head_dim * (window + chosen)), [s](auto& e) {
                     const attention_slots<bf16> slots{
                         window - 1, window, {s->recent, window, {}}, s->entries, s->chosen};
                     sparse_attention(e, s->q.all().reshape(1, heads, head_dim), slots,
                                      view<const float, 1>(s->sink), s->o.all().reshape(1, heads, head_dim));
                   });
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + std::ptrdiff_t(v.size() / 2), v.end());
  return v[v.size() / 2];
}

int run(int argc, char** argv) {
  int rounds = 9, threads = 1;
  bool json = false;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--json")
      json = true;
    else if (i + 1 < argc && a == "--rounds")
      rounds = std::max(1, std::atoi(argv[++i]));
    else if (i + 1 < argc && a == "--threads")
      threads = std::max(1, std::atoi(argv[++i]));
    else if (i + 1 < argc && a == "--only")
      only = argv[++i];
    else
      return std::fprintf(stderr,
                          "usage: real_size [--rounds N] [--threads N] [--only PART OF A NAME] [--json]\n"),
             2;
  }
  const std::pair<const char*, std::function<measured(const char*)>> table[] = {
      {"FP4 experts, 6", [](const char*) { return experts(1); }},
      {"wq_b", [](const char* n) { return product(n, dtype::f8_e4m3, 32768, 1024, 1); }},
      {"wo_b", [](const char* n) { return product(n, dtype::f8_e4m3, 4096, 8192, 1); }},
      {"shared.w1", [](const char* n) { return product(n, dtype::f8_e4m3, inner, hidden, 1); }},
      {"head/8", [](const char* n) { return product(n, dtype::bf16, 16160, hidden, 1, true); }},
      {"CSA compressor", [](const char* n) { return product(n, dtype::bf16, 1024, hidden, 1, true); }},
      {"FP4 experts, t=128", [](const char*) { return experts(128); }},
      {"wq_b, t=128", [](const char* n) { return product(n, dtype::f8_e4m3, 32768, 1024, 128); }},
      {"index scores, 16384", [](const char*) { return index_scores(16384); }},
      {"attention, 640 slots", [](const char*) { return attention(512); }},
      {"attention, 8320 slots", [](const char*) { return attention(8192); }},
  };
  if (!json)
    std::printf("%-22s %10s %10s %9s %9s   %s\n", "medians, threads ", "fast ms", "exact ms", "fast", "exact",
                "share of");
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const auto& [name, make] : table) {
    if (std::string(name).find(only) == std::string::npos) continue;
    const measured m = make(name);
    std::vector<double> fast, exact, fast_share, exact_share, ceiling;
    const auto time = [&](auto e, const auto& f) {
      e.threads = threads;
      int n = 0;
      const double start = now(threads == 1);
      double t = 0;
      do {
        kernel::scope<decltype(e)>::run(e, [&] { f(e); });
        ++n;
        t = now(threads == 1) - start;
      } while (t < 0.02);
      return t / n;
    };
    for (int r = 0; r <= rounds; ++r) {
      const double f = time(exec::cpu_fast{}, m.fast), x = time(exec::cpu{}, m.exact);
      const double most = m.bytes > 0 ? read_gbytes(threads) * 1e9 : gemm_gflops<float>(768) * 1e9 * threads;
      if (r == 0) continue;  // first touch of the scratch
      const double work = m.bytes > 0 ? m.bytes : m.flop;
      fast.push_back(f * 1e3), exact.push_back(x * 1e3), ceiling.push_back(most * 1e-9);
      fast_share.push_back(work / f / most), exact_share.push_back(work / x / most);
    }
    const char* of = m.bytes > 0 ? "read, GB/s" : "sgemm, GFLOP/s";
    if (json)
      out.push_back({{"name", name},
                     {"threads", threads},
                     {"fast_ms", median(fast)},
                     {"exact_ms", median(exact)},
                     {"fast_share", median(fast_share)},
                     {"exact_share", median(exact_share)},
                     {"ceiling", of},
                     {"ceiling_value", median(ceiling)}});
    else
      std::printf("%-22s %10.3f %10.3f %8.0f%% %8.0f%%   %s %.1f\n", name, median(fast), median(exact),
                  100 * median(fast_share), 100 * median(exact_share), of, median(ceiling));
    std::fflush(stdout);
  }
  if (json) std::printf("%s\n", out.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace dsv4

int main(int argc, char** argv) { return dsv4::run(argc, argv); }
