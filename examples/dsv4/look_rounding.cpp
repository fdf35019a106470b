// SPDX-License-Identifier: MIT
#include "look_rounding.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "engine.hpp"
#include "watch.hpp"

namespace cli {
namespace {

using dsv4::site;
using dsv4::tap_event;
using dsv4::tap_scope;

constexpr index_t most_values = 16384;  // of a site: its error to 1 %, in 64 KiB

/// Log-probabilities of a row of logits, in place.
void normalise(std::span<double> row) {
  const double most = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const double x : row) sum += std::exp(x - most);
  const double all = most + std::log(sum);
  for (double& x : row) x -= all;
}

/// Keeps samples of every float site, all of every choice, and the distributions of the answer.
class sampler {
 public:
  static constexpr bool on = true;

  struct sample {
    tap_scope scope;
    site where = site::count;
    std::vector<float> values;
    std::vector<std::set<std::int32_t>> choices;  // one per token
  };
  std::vector<sample> samples;   // as they came
  std::vector<float> log_probs;  // [t, v]

  void operator()(const tap_event& e) {
    if (e.where == site::logits && e.scope.where == tap_scope::part::head) {
      std::vector<double> rows = numbers_of(e);
      for (index_t t = 0; t < e.tokens; ++t)
        normalise(std::span(rows).subspan(usize(t * e.shape[1]), usize(e.shape[1])));
      log_probs.insert(log_probs.end(), rows.begin(), rows.end());
    }
    sample s{e.scope, e.where, {}, {}};
    if (e.type == dsv4::dtype::i32) {
      // Of the slots only the entries are a choice; the window's numbers lie below the call's tokens.
      const index_t least = e.where == site::attn_topk_idxs ? e.tokens : 0;
      const auto found = e.values<std::int32_t>();
      s.choices.resize(usize(e.shape[0]));
      for (index_t t = 0; t < e.shape[0]; ++t)
        for (index_t k = 0; k < e.shape[1]; ++k)
          if (const std::int32_t v = found[usize(t * e.shape[1] + k)]; v >= least)
            s.choices[usize(t)].insert(v);
    } else {
      const std::vector<double> all = numbers_of(e);
      const index_t n = static_cast<index_t>(all.size()), step = std::max(index_t{1}, n / most_values) | 1;
      for (index_t i = 0; i < n; i += step) s.values.push_back(static_cast<float>(all[usize(i)]));
    }
    samples.push_back(std::move(s));
  }
};

double difference(const sampler::sample& rounded, const sampler::sample& plain) {
  if (!plain.choices.empty()) {
    double missed = 0, all = 0;
    for (std::size_t t = 0; t < plain.choices.size(); ++t)
      for (const std::int32_t v : plain.choices[t]) {
        ++all;
        missed += !rounded.choices[t].contains(v);
      }
    return all > 0 ? missed / all : 0;
  }
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < plain.values.size(); ++i) {
    const double a = rounded.values[i], b = plain.values[i];
    if (!std::isfinite(b)) continue;  // scores of entries that do not exist yet
    apart += (a - b) * (a - b);
    size += b * b;
  }
  return size > 0 ? std::sqrt(apart / size) : 0;
}

}  // namespace

rounding_result compare_rounding(const dsv4::config& c, const dsv4::model_weights<>& w,
                                 std::span<const std::int32_t> ids, bool mtp, int threads) {
  sampler rounded, plain;
  const auto run = [&](const engine& e, sampler& s) {
    e.forward(
        {c, w, ids, {static_cast<index_t>(ids.size())}, mtp, threads, s, [](index_t, index_t) {}, false});
  };
  run(official_cpu, rounded);
  run(float32_cpu, plain);

  rounding_result r;
  for (std::size_t i = 0; i < plain.samples.size(); ++i)
    r.sites.push_back(
        {plain.samples[i].scope, plain.samples[i].where, difference(rounded.samples[i], plain.samples[i])});
  const std::size_t v = usize(c.vocab_size), n = ids.size();
  for (std::size_t t = 0; t < n; ++t) {
    const auto p = std::span(plain.log_probs).subspan(t * v, v),
               q = std::span(rounded.log_probs).subspan(t * v, v);
    for (std::size_t i = 0; i < v; ++i)
      r.kl += std::exp(double(p[i])) * (double(p[i]) - double(q[i])) / double(n);
    r.agreement += (std::max_element(p.begin(), p.end()) - p.begin() ==
                    std::max_element(q.begin(), q.end()) - q.begin()) /
                   double(n);
  }
  return r;
}

}  // namespace cli
