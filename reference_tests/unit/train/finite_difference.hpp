// SPDX-License-Identifier: MIT
#pragma once
/// Gradients against finite differences, in double.
///
/// The slope of a loss along v is taken from four points,
///   f' = (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h,      h = 1e-4
/// whose error is h^4 f'''''/30 = 3e-18 f''''' by truncation and some ulps of f over h by rounding: 1e-10 of the
/// terms that f sums.  So a gradient must agree to 1e-7 of its largest element (or of its norm, along one direction)
/// and 1e-10 of the loss: 1e-7 leaves room for a fifth derivative of 1e10.
#include <cmath>
#include <cstdio>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "catch.hpp"
#include "dsv4/train/batch.hpp"
#include "dsv4/train/parameters.hpp"
#include "random_model.hpp"

namespace dsv4_test {

inline constexpr double difference_step = 1e-4;
inline constexpr double difference_tolerance = 1e-7;  // of the gradient
inline constexpr double difference_noise = 1e-10;     // of 1 + |loss|
/// Elements up to which each is tested by itself.
inline constexpr index_t each_element = 256;
/// What gradient buffers hold before anything is added to them.
inline constexpr double before = 0.5;
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

template <class F>
double slope(std::span<double> x, const std::vector<double>& along, F&& f) {
  const std::vector<double> start(x.begin(), x.end());
  const auto at = [&](double h) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = start[i] + h * along[i];
    const double y = f();
    std::copy(start.begin(), start.end(), x.begin());
    return y;
  };
  const double h = difference_step;
  return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
}

/// What a gradient is compared with: its size, and the error that differences of f have.
struct gradient_scale {
  double largest = 0, norm = 0, noise = 0;
  gradient_scale(std::span<const double> gradient, double loss)
      : noise(difference_noise * (1 + std::fabs(loss))) {
    for (const double g : gradient) {
      largest = std::max(largest, std::fabs(g));
      norm += g * g;
    }
    norm = std::sqrt(norm);
    CHECK(largest > 1e3 * noise);  // else nothing is tested
  }
};
inline void show(const std::string& name, std::size_t n, double largest, double worst) {
  if (std::getenv("DSV4_TEST_VERBOSE"))
    std::printf("%-50s %5zu  max %.1e  worst %.1e\n", name.c_str(), n, largest, worst);
}

/// The gradient of f() along one direction: half of it the gradient's, which tells its length, half of it any, which
/// tells its direction.
template <class F>
void check_direction(const std::string& name, std::span<double> x, std::span<const double> gradient, F&& f) {
  INFO(name);
  REQUIRE(x.size() == gradient.size());
  const gradient_scale scale(gradient, f());
  integers r{x.size()};
  std::vector<double> v(x.size());
  double along = 0;
  for (std::size_t i = 0; i < v.size(); ++i) {
    v[i] = gradient[i] / scale.norm + (r.below(2) ? 1 : -1) / std::sqrt(double(x.size()));
    along += v[i] * gradient[i];
  }
  const double found = slope(x, v, f), error = std::fabs(found - along);
  INFO("gradient " << along << ", difference " << found);
  CHECK(error <= difference_tolerance * scale.norm + scale.noise);
  show(name, x.size(), scale.largest, error / scale.norm);
}

/// The gradient of f() with respect to x, element by element if there are few.
template <class F>
void check_gradient(const std::string& name, std::span<double> x, std::span<const double> gradient, F&& f) {
  if (static_cast<index_t>(x.size()) > each_element) return check_direction(name, x, gradient, f);
  INFO(name);
  REQUIRE(x.size() == gradient.size());
  const gradient_scale scale(gradient, f());
  std::vector<double> v(x.size(), 0.0);
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    v[i] = 1;
    const double found = slope(x, v, f), error = std::fabs(found - gradient[i]);
    v[i] = 0;
    worst = std::max(worst, error / scale.largest);
    INFO("element " << i << ": gradient " << gradient[i] << ", difference " << found);
    CHECK(error <= difference_tolerance * scale.largest + scale.noise);
  }
  show(name, x.size(), scale.largest, worst);
}

/// Something with a gradient.  Buffers that are added to begin at `before`, buffers that are set begin as NaN.
template <int R>
struct variable {
  tensor<double, R> value, gradient;

  template <class... N>
  explicit variable(integers& r, double size, N... n) : value(n...), gradient(n...) {
    for (index_t i = 0; i < value.size(); ++i) value.data()[i] = size * double(r.unit());
    forget(before);
  }
  void forget(double start) { std::fill_n(gradient.data(), gradient.size(), start); }
  operator view<double, R>() { return value.all(); }
  view<const double, R> constant() const { return value.all(); }

  /// What was added since forget(start), against differences of f.
  template <class F>
  void check(const std::string& name, F&& f, double start = before) {
    std::vector<double> g(gradient.data(), gradient.data() + gradient.size());
    for (double& x : g) x -= start;
    check_gradient(name, std::span(value.data(), std::size_t(value.size())), g, f);
  }
};

/// sum of a b.
template <class A, class B>
double inner(const A& a, const B& b) {
  REQUIRE(a.size() == b.size());
  double sum = 0;
  for (index_t i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
  return sum;
}
template <class... N>
tensor<double, static_cast<int>(sizeof...(N))> numbers(integers& r, double size, N... n) {
  tensor<double, static_cast<int>(sizeof...(N))> x(n...);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = size * double(r.unit());
  return x;
}

/// A random model as training holds it: flat weights and gradients, and the tables of the gates.
template <class T = double>
struct trained_model {
  config c;
  train::parameter_layout layout;
  tensor<T, 1> weights, gradients;
  train::routing_tables tables;

  explicit trained_model(const random_model& m)
      : c(m.c), layout(train::parameter_layout::of<T>(c)), weights(layout.size), gradients(layout.size) {
    train::decode_weights<T>(m.weights, c, train::bind<T>(c, weights.data()));
    for (const block_weights<>& b : m.weights.layers) routing(b.ffn.gate);
    for (const mtp_weights<>& w : m.weights.mtp) routing(w.block.ffn.gate);
    forget();
  }
  explicit trained_model(const config& c, std::uint64_t seed = 1)
      : trained_model(random_model(c, all_f32, seed)) {}

  void forget(T start = T(before)) { std::fill_n(gradients.data(), gradients.size(), start); }
  train::model_parameters<const T> w() const { return train::bind<const T>(c, weights.data()); }
  train::model_parameters<T> g() { return train::bind<T>(c, gradients.data()); }
  std::span<T> values(const train::parameter_info& p) {
    return {weights.data() + p.offset, std::size_t(p.size())};
  }
  /// Added since forget(start).
  std::vector<T> added(const train::parameter_info& p, T start = T(before)) const {
    std::vector<T> g(gradients.data() + p.offset, gradients.data() + p.offset + p.size());
    for (T& x : g) x -= start;
    return g;
  }

  /// Parameters whose names begin with `prefix` (and have no `without`) against differences of f.
  template <class F>
  void check(const std::string& prefix, F&& f, const std::string& without = "nothing") {
    index_t tested = 0;
    for (const train::parameter_info& p : layout.all)
      if (p.name.starts_with(prefix) && p.name.find(without) == p.name.npos) {
        check_gradient(p.name, values(p), added(p), f);
        ++tested;
      }
    CHECK(tested > 0);
  }
  /// Nothing was added to parameters with `part` in their name.
  void check_untouched(const std::string& part) const {
    for (const train::parameter_info& p : layout.all)
      if (p.name.find(part) != p.name.npos) {
        INFO(p.name);
        const std::vector<T> a = added(p);
        CHECK(std::all_of(a.begin(), a.end(), [](T x) { return x == 0; }));
      }
  }

 private:
  void routing(const gate_weights<>& gate) {
    tables.bias.push_back(gate.bias);
    tables.table.emplace_back();
    if (const expert_table& t = gate.tid2eid; t.present()) {
      tables.table.back() = tensor<std::int32_t, 2>(t.rows, t.k);
      for (index_t i = 0; i < t.rows; ++i)
        for (index_t j = 0; j < t.k; ++j) tables.table.back()(i, j) = static_cast<std::int32_t>(t.at(i, j));
    }
  }
};

/// All layer kinds, as small as they can be: window 8, HCA blocks of 6, the best 2 of the CSA entries.
inline config smallest_config(std::vector<index_t> ratios = {0, 4, 6, 0}) {
  config c = tiny_config();
  c.vocab_size = 13;
  c.hidden_size = 10;
  c.moe_intermediate_size = 5;
  c.num_hidden_layers = static_cast<index_t>(ratios.size()) - 1;
  c.num_hash_layers = 0;
  c.num_attention_heads = 4;
  c.head_dim = 6;
  c.qk_rope_head_dim = 4;
  c.q_lora_rank = 7;
  c.o_groups = 2;
  c.o_lora_rank = 3;
  c.n_routed_experts = 5;
  c.num_experts_per_tok = 2;
  c.index_n_heads = 3;
  c.index_head_dim = 4;
  c.index_topk = 2;
  c.hc_mult = 3;
  c.compress_ratios = std::move(ratios);
  return c;
}

/// Samples of these lengths, packed; each predicts all but its first token.
inline train::batch packed(const std::vector<index_t>& lengths, index_t vocabulary, std::uint64_t seed) {
  train::batch b{{}, {}, {0}};
  for (const index_t n : lengths) {
    const train::batch one = train::batch::of(random_ids(n, vocabulary, ++seed * 77));
    b.ids.insert(b.ids.end(), one.ids.begin(), one.ids.end());
    b.targets.insert(b.targets.end(), one.targets.begin(), one.targets.end());
    b.begins.push_back(b.tokens());
  }
  return b;
}

}  // namespace dsv4_test
