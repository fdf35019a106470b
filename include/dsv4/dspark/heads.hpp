// SPDX-License-Identifier: MIT
#pragma once
/// What turns a drafter's states into tokens: a bias that follows the token before, and how far each slot is to be trusted.
/// source   DSpark; the gated and the recurrent form as DeepSpec has them
/// axes     k slot of a block · d channel · r rank · v vocabulary
/// oracle   golden/dspark: v4_draft, v41_train (the vanilla head); qwen3_{vanilla,gated,rnn}
///
///   e = W1[previous token]
///   vanilla    logits += W2 e
///   gated      logits += W2 (sigmoid(G [h ; e] + g) * e)
///   recurrent  [a, b, c] = J [s ; e ; h] + j     s <- sigmoid(a) s + (1 - sigmoid(a)) tanh b     logits += W2 tanh c
///   confidence = proj [h ; e] + bias     or     proj h + bias
///
/// The slots of a block are computed at once and know nothing of one another's tokens; the bias is what makes a chain of
/// them, at the price of one small product a slot.  s is 0 where a block begins.
#include <cmath>
#include <cstdint>
#include <vector>

#include "../core/contract.hpp"
#include "../core/fold.hpp"
#include "../core/tensor.hpp"
#include "../num/formulas.hpp"

namespace dsv4::dspark {

enum class markov_kind { vanilla, gated, recurrent };

template <class T>
struct markov_weights {
  markov_kind kind = markov_kind::vanilla;
  view<const T, 2> w1, w2;  // [v,r]
  view<const T, 2> mix{};   // gated: G [r, d + r]; recurrent: J [3 r, 2 r + d]
  view<const T, 1> bias{};  // g [r] or j [3 r]
};

template <class T>
struct confidence_weights {
  view<const T, 1> proj;  // [d + r] or [d]
  T bias = 0;             // the released drafters have none
};

namespace detail {

// einsum: i, o i -> o
template <class T>
void product(view<const T, 1> x /*[i]*/, view<const T, 2> w /*[o,i]*/, view<T, 1> y /*[o]*/) {
  expects_equal(w.extent(1), x.extent(0), "dspark: columns of a weight against its input");
  expects_equal(w.extent(0), y.extent(0), "dspark: rows of a weight against its output");
  for (index_t o = 0; o < y.extent(0); ++o)
    y[o] = fold(x.extent(0), T(0), [&](index_t i) { return x[i] * w(o, i); });
}

template <class T>
std::vector<T> side_by_side(std::initializer_list<view<const T, 1>> parts) {
  std::vector<T> all;
  for (const view<const T, 1>& p : parts) all.insert(all.end(), p.begin(), p.end());
  return all;
}
template <class T>
view<const T, 1> as_view(const std::vector<T>& x) {
  return {x.data(), static_cast<index_t>(x.size())};
}

}  // namespace detail

/// Follows one block, slot by slot.
template <class T>
class markov_chain {
 public:
  explicit markov_chain(const markov_weights<T>& w) : w_(w), state_(usize(w.w1.extent(1)), T(0)) {}

  /// logits [v] += the bias of the token before; h [d]: the slot's state.
  void add(std::int32_t previous, view<const T, 1> h /*[d]*/, view<T, 1> logits /*[v]*/) {
    expects_in(previous, 0, w_.w1.extent(0), "markov_chain: token");
    const view<const T, 1> e = w_.w1[previous];
    std::vector<T> x(e.begin(), e.end());
    const index_t rank = e.extent(0);
    if (w_.kind == markov_kind::gated) {
      const std::vector<T> gate = mixed({h, e});
      for (index_t r = 0; r < rank; ++r) x[usize(r)] *= sigmoid(gate[usize(r)]);
    } else if (w_.kind == markov_kind::recurrent) {
      const std::vector<T> u = mixed({detail::as_view(state_), e, h});
      for (index_t r = 0; r < rank; ++r) {
        const T keep = sigmoid(u[usize(r)]);
        state_[usize(r)] = keep * state_[usize(r)] + (1 - keep) * std::tanh(u[usize(rank + r)]);
        x[usize(r)] = std::tanh(u[usize(2 * rank + r)]);
      }
    }
    // einsum: r, v r -> v
    for (index_t v = 0; v < logits.extent(0); ++v)
      logits[v] += fold(rank, T(0), [&](index_t r) { return x[usize(r)] * w_.w2(v, r); });
  }

 private:
  std::vector<T> mixed(std::initializer_list<view<const T, 1>> parts) const {
    const std::vector<T> x = detail::side_by_side(parts);
    std::vector<T> y(usize(w_.mix.extent(0)));
    detail::product<T>(detail::as_view(x), w_.mix, {y.data(), w_.mix.extent(0)});
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += w_.bias[static_cast<index_t>(i)];
    return y;
  }
  markov_weights<T> w_;
  std::vector<T> state_;  // [r], of the recurrent form
};

/// The logit of the probability that a slot's token stands.
/// h [d]: of the released V4 drafter the state BEFORE the last norm, of the trainable ports the normed one.
template <class T>
T confidence_of(const confidence_weights<T>& w, view<const T, 1> h /*[d]*/, view<const T, 1> e /*[r]*/) {
  const index_t width = h.extent(0);
  const bool both = w.proj.extent(0) != width;
  expects_equal(w.proj.extent(0), both ? width + e.extent(0) : width, "confidence_of: columns of proj");
  T sum = w.bias + fold(width, T(0), [&](index_t d) { return w.proj[d] * h[d]; });
  if (both) sum += fold(e.extent(0), T(0), [&](index_t r) { return w.proj[width + r] * e[r]; });
  return sum;
}

}  // namespace dsv4::dspark
