// SPDX-License-Identifier: MIT
#pragma once
/// Low-rank adapters: a weight learns by two thin matrices, and is itself left alone.
/// source   The report trains all weights; LoRA (Hu et al. 2021)
/// axes     t token · k input channel · o output channel · r rank
/// oracle   finite differences; the gradient of the full weight (reference_tests/unit/train/lora.cpp)
///
///   W' = W + s B A,   s = alpha / rank        y' = x W'^T = x W^T + s (x A^T) B^T
///   by products:     x' = x A^T   dB += s dy^T x'   dx' = s dy B    dA += dx'^T x   dx += dx' A
///   by the weight:   dB += s dW A^T               dA += s B^T dW
///
/// Both ways give the same gradients.  The second needs dW, which training here has in any case, and in return nothing
/// of the model knows about adapters: it runs on W', through whatever it does to weights (quantisation-aware training:
/// the published form of W', straight through).  Then merging at the end is no approximation: what was trained is W'.
/// B begins as zero, so that training begins at W to the bit; A must not, or neither would ever move.
/// @throws contract_violation  a rank that is no rank; a target that no matrix has in its name
#include <cmath>
#include <string>
#include <vector>

#include "parameters.hpp"
#include "product.hpp"

namespace dsv4::train {

struct lora_settings {
  index_t rank = 8;
  double alpha = 16;  ///< the change of a weight is alpha / rank times B A
  /// Parts of hub names: every matrix that has one of them in its name gets an adapter.
  std::vector<std::string> targets = {".attn.wq_", ".attn.wkv.", ".attn.wo_", ".experts.",
                                      ".shared_experts."};

  double scale() const { return alpha / static_cast<double>(rank); }
};

// ---- one weight ----

/// y += s (x A^T) B^T; keeps x A^T for the way back.
template <execution E, class T>
void lora_forward(E& e, workspace& scratch, view<T, 2> x /*[t,k]*/, view<const T, 2> a /*[r,k]*/,
                  view<const T, 2> b /*[o,r]*/, T scale, view<T, 2> thin /*[t,r]*/, view<T, 2> y /*[t,o]*/) {
  workspace::scope here(scratch);
  project(e, x, a, thin);
  auto change = scratch.take<T>(y.extent(0), y.extent(1));  // [t, o]
  project(e, thin, b, change);
  for (index_t i = 0; i < y.size(); ++i) y.data()[i] += scale * change.data()[i];
}

/// dx += ..., dA += ..., dB += ...  An empty dx: its gradient is not wanted.
template <execution E, class T>
void lora_backward(E& e, workspace& scratch, view<T, 2> dy /*[t,o]*/, view<T, 2> x /*[t,k]*/,
                   view<const T, 2> a /*[r,k]*/, view<const T, 2> b /*[o,r]*/, T scale,
                   view<T, 2> thin /*[t,r]*/, view<T, 2> dx /*[t,k]*/, view<T, 2> da /*[r,k]*/,
                   view<T, 2> db /*[o,r]*/) {
  workspace::scope here(scratch);
  auto scaled = scratch.take<T>(dy.extent(0), dy.extent(1));          // [t, o]
  auto dthin = zeros<T>(e, scratch, thin.extent(0), thin.extent(1));  // [t, r]
  for (index_t i = 0; i < dy.size(); ++i) scaled.data()[i] = scale * dy.data()[i];
  project_backward(e, scaled, thin, b, dthin, db);
  project_backward(e, dthin, x, a, dx, da);
}

/// out = W + s B A.  out may be W's memory.
// einsum: o r, r k -> o k
template <execution E, class T>
void lora_merge(E& e, view<const T, 2> w /*[o,k]*/, view<const T, 2> a /*[r,k]*/,
                view<const T, 2> b /*[o,r]*/, T scale, view<T, 2> out /*[o,k]*/) {
  kernel::rows<E>::run(e, w.extent(0), token_grain, [&](index_t begin, index_t end) {
    workspace::scope here(thread_scratch());
    auto change = thread_scratch().take<T>(w.extent(1));  // [k]
    for (index_t o = begin; o < end; ++o) {
      std::fill(change.begin(), change.end(), T(0));
      for (index_t r = 0; r < a.extent(0); ++r)
        for (index_t k = 0; k < a.extent(1); ++k) change[k] += b(o, r) * a(r, k);
      for (index_t k = 0; k < w.extent(1); ++k) out(o, k) = w(o, k) + scale * change[k];
    }
  });
}

/// dA += s B^T dW, dB += s dW A^T.
template <execution E, class T>
void lora_pull_back(E& e, workspace& scratch, view<T, 2> dw /*[o,k]*/, view<const T, 2> a /*[r,k]*/,
                    view<const T, 2> b /*[o,r]*/, T scale, view<T, 2> da /*[r,k]*/, view<T, 2> db /*[o,r]*/) {
  workspace::scope here(scratch);
  auto from_b = scratch.take<T>(b.extent(0), b.extent(1));  // [o, r]
  // einsum: o k, r k -> o r
  project(e, dw, a, from_b);
  for (index_t i = 0; i < db.size(); ++i) db.data()[i] += scale * from_b.data()[i];
  // einsum: o r, o k -> r k
  for (index_t i = 0; i < b.size(); ++i) from_b.data()[i] = scale * b.data()[i];
  project_backward(e, from_b, dw, a, view<T, 2>{}, da);
}

// ---- a model ----

/// The adapters of a model in one flat buffer, A and B of each target side by side.
struct lora_layout {
  /// A matrix with an adapter.
  struct target {
    parameter_info weight;  ///< in the model's layout
    parameter_info a, b;    ///< in the buffer of adapters
  };
  std::vector<target> targets;
  /// All A and B, named as peft names them; AdamW updates both.
  parameter_layout parameters;
  lora_settings settings;

  /// T: of the buffer, as in parameter_layout::of.
  template <class T = float>
  static lora_layout of(const parameter_layout& model, const lora_settings& s) {
    // contract
    expects(s.rank >= 1, "lora: the rank is at least 1, got " + std::to_string(s.rank));
    expects(std::isfinite(s.alpha), "lora: alpha is not finite");
    expects(!s.targets.empty(), "lora: no targets");

    lora_layout l;
    l.settings = s;
    std::vector<bool> used(s.targets.size());
    for (const parameter_info& p : model.all) {
      bool wanted = false;
      // Matrices only; the embedding and the head have rows of tokens, which adapters do not suit.
      for (std::size_t i = 0; i < s.targets.size() && p.rule == update_rule::muon; ++i)
        if (p.name.find(s.targets[i]) != p.name.npos) wanted = used[i] = true;
      if (!wanted) continue;
      const std::string name = p.name.substr(0, p.name.rfind(".weight"));
      const parameter_info a = l.place<T>(name + ".lora_A.weight", s.rank, p.shape[1]),
                           b = l.place<T>(name + ".lora_B.weight", p.shape[0], s.rank);
      l.targets.push_back({p, a, b});
    }
    for (std::size_t i = 0; i < used.size(); ++i)
      expects(used[i], "lora: no matrix of the model has \"" + s.targets[i] + "\" in its name");
    return l;
  }

  /// A begins as normal(name, i) / sqrt(k), B as zero.
  template <class T, class Normal>
  void initialise(view<T, 1> buffer, Normal normal) const {
    expects_equal(buffer.extent(0), parameters.size, "lora: elements of the adapters");
    std::fill(buffer.begin(), buffer.end(), T(0));
    for (const target& t : targets)
      for (index_t i = 0; i < t.a.size(); ++i)
        buffer[t.a.offset + i] = T(normal(t.a.name, i) / std::sqrt(static_cast<double>(t.a.shape[1])));
  }

  /// merged = weights, with s B A added to every target.  Buffers of the model's layout, which may be the same.
  template <execution E, class T>
  void merge(E& e, view<const T, 1> weights, view<const T, 1> adapters, view<T, 1> merged) const {
    expects_equal(adapters.extent(0), parameters.size, "lora: elements of the adapters");
    expects_equal(weights.extent(0), merged.extent(0), "lora: elements of the weights");
    if (weights.data() != merged.data()) std::copy(weights.begin(), weights.end(), merged.begin());
    for (const target& t : targets)
      lora_merge<E, T>(e, matrix(weights, t.weight), matrix(adapters, t.a), matrix(adapters, t.b),
                       T(settings.scale()), matrix(merged, t.weight));
  }

  /// dadapters += what the gradient of the merged weights gives them.
  template <execution E, class T>
  void pull_back(E& e, workspace& scratch, view<T, 1> dweights, view<const T, 1> adapters,
                 view<T, 1> dadapters) const {
    expects_equal(adapters.extent(0), parameters.size, "lora: elements of the adapters");
    expects_equal(dadapters.extent(0), parameters.size, "lora: elements of the adapters' gradient");
    for (const target& t : targets)
      lora_pull_back<E, T>(e, scratch, matrix(dweights, t.weight), matrix(adapters, t.a),
                           matrix(adapters, t.b), T(settings.scale()), matrix(dadapters, t.a),
                           matrix(dadapters, t.b));
  }

  template <class T>
  static view<T, 2> matrix(view<T, 1> buffer, const parameter_info& p) {
    return {buffer.data() + p.offset, p.shape[0], p.shape[1]};
  }

 private:
  template <class T>
  parameter_info place(std::string name, index_t rows, index_t cols) {
    constexpr index_t line = static_cast<index_t>(alignment / sizeof(T));
    parameter_info p{weight_info(std::move(name), {rows, cols}, weight_format::f32, update_rule::adamw),
                     parameters.size};
    parameters.size += (p.size() + line - 1) / line * line;
    parameters.all.push_back(p);
    return p;
  }
};

}  // namespace dsv4::train
