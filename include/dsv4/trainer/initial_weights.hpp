// SPDX-License-Identifier: MIT
#pragma once
/// What a model knows before its first step.
/// @paper{DSV4: none of it; mHC's alpha: arXiv 2512.24880, Table 5; 0.006: DeepSeek-V3, section 4.2}
/// deviates all choices but alpha are ours: docs/deviations.md, "Training".  0.006 ends 0.03 nats below 0.02 (the hub's
///          initializer_range), 0.2 below 0.05 by width: 250 steps of 512 tokens at D = 96
///
///   matrices            normal, std (by_width: std sqrt(256 / columns), so that products keep their size in narrow models)
///   embedding, head     normal, their own std
///   norms               1
///   mHC                 W normal, alpha small, S = 0: at the start the read weights are 1/2, the write weights 1 and the
///                       carry-over 1/n each, which on n equal streams is the plain residual connection
///   sinks, positional biases of compressors, selection bias   0
///   hash tables         below
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "../train/parameters.hpp"
#include "random.hpp"

namespace dsv4::trainer {

struct initial_settings {
  double std = 0.006;
  double embedding_std = 0.006, head_std = 0.006;
  bool by_width = false;
  double hyper_std = 0.02, hyper_alpha = 0.01;
};

/// Every parameter; `buffer` has the layout's size, padding becomes 0.  The same seed gives the same weights, and each
/// parameter its own, whatever else the model has.
template <class T>
void initial_weights(const train::parameter_layout& layout, const initial_settings& s, std::uint64_t seed,
                     view<T, 1> buffer) {
  std::fill(buffer.begin(), buffer.end(), T{0});
  for (const train::parameter_info& p : layout.all) {
    const view<T, 1> w(buffer.data() + p.offset, p.size());
    constexpr double usual_width = 256;
    const double scale = s.by_width ? std::sqrt(usual_width / static_cast<double>(p.shape.back())) : 1;
    const auto fill = [&](double value) { std::fill(w.begin(), w.end(), T(value)); };
    const auto draw = [&](double std) {
      const counter_random r(seed, p.name);
      for (index_t i = 0; i < w.size(); ++i) w[i] = T(std * r.normal(i));
    };
    switch (p.start) {
      case initial_value::zero: fill(0); break;
      case initial_value::one: fill(1); break;
      case initial_value::hyper_alpha: fill(s.hyper_alpha); break;
      case initial_value::hyper_mix: draw(s.hyper_std); break;
      case initial_value::embedding: draw(s.embedding_std); break;
      case initial_value::head: draw(s.head_std); break;
      case initial_value::normal: draw(s.std * scale); break;
    }
  }
}

/// Experts of every token of a hash layer, balanced by how often the tokens occur: from the most frequent token down,
/// each takes the k experts with the least load so far.  Ties are broken by chance, so that layers differ and tokens
/// that were never seen spread evenly, too.
inline tensor<std::int32_t, 2> balanced_table(const config& c, std::span<const index_t> counts /*[vocab]*/,
                                              std::uint64_t seed, index_t layer) {
  struct load {
    index_t tokens = 0, ids = 0;  // occurrences, then vocabulary entries
  };
  const counter_random r(seed ^ counter_random::fnv1a("tid2eid"), static_cast<std::uint64_t>(layer));
  std::vector<index_t> order(usize(c.vocab_size));
  for (index_t i = 0; i < c.vocab_size; ++i) order[usize(i)] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](index_t a, index_t b) { return counts[usize(a)] > counts[usize(b)]; });

  std::vector<load> loads(usize(c.n_routed_experts));
  std::vector<std::tuple<index_t, index_t, std::uint64_t, index_t>> choice(
      loads.size());  // load, ids, chance, expert
  tensor<std::int32_t, 2> table(c.vocab_size, c.num_experts_per_tok);
  for (std::size_t n = 0; n < order.size(); ++n) {
    for (std::size_t e = 0; e < loads.size(); ++e)
      choice[e] = {loads[e].tokens, loads[e].ids, r.bits(static_cast<index_t>(n * loads.size() + e)),
                   static_cast<index_t>(e)};
    std::partial_sort(choice.begin(), choice.begin() + c.num_experts_per_tok, choice.end());
    for (index_t k = 0; k < c.num_experts_per_tok; ++k) {
      const index_t e = std::get<3>(choice[usize(k)]);
      table(order[n], k) = static_cast<std::int32_t>(e);
      loads[usize(e)].tokens += counts[usize(order[n])];
      ++loads[usize(e)].ids;
    }
  }
  return table;
}

/// Zero bias in learned layers, balanced tables in hash layers; one entry per layer, then per MTP block.
inline train::routing_tables initial_routing(const config& c, std::span<const index_t> counts /*[vocab]*/,
                                             std::uint64_t seed) {
  train::routing_tables r;
  const index_t blocks = c.num_hidden_layers + c.num_nextn_predict_layers;
  r.bias.resize(usize(blocks));
  r.table.resize(usize(blocks));
  for (index_t l = 0; l < blocks; ++l) {
    if (c.is_hash_layer(l))
      r.table[usize(l)] = balanced_table(c, counts, seed, l);
    else
      r.bias[usize(l)] = tensor<float, 1>(c.n_routed_experts);
  }
  return r;
}

}  // namespace dsv4::trainer
