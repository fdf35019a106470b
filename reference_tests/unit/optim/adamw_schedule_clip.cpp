// SPDX-License-Identifier: MIT
// AdamW, the learning rate and clipping against closed forms and their post-conditions.
#include <tbb/global_control.h>

#include <limits>
#include <vector>

#include "catch.hpp"
#include "dsv4/core/tensor.hpp"
#include "dsv4/cpu/parallel.hpp"
#include "dsv4/optim/adamw.hpp"
#include "dsv4/optim/clip.hpp"
#include "dsv4/optim/schedule.hpp"
#include "operands.hpp"

namespace dsv4_test {

TEMPLATE_TEST_CASE("adamw: the first step is lr, however small the gradient", "[optim]", float, double) {
  const double sizes[] = {1, 1e-3, 1e-8, 1e-12, 1e-15};
  tensor<TestType, 1> g(10), m(10), v(10), w(10);
  for (index_t n = 0; n < 10; ++n) g[n] = TestType(sizes[n / 2] * (n % 2 ? -1 : 1));
  adamw_step<TestType>(g, m, v, w, 1, 0.25);
  for (index_t n = 0; n < 10; ++n) CHECK(close(w[n], n % 2 ? 0.25 : -0.25, 1e-4));  // (1)
}

TEST_CASE("adamw: a constant gradient moves lr a step; decay is decoupled; zero is zero", "[optim]") {
  tensor<double, 1> g(3), m(3), v(3), w(3);
  g[0] = 2, g[1] = -1e-5, g[2] = 0;
  w[2] = 8;
  for (index_t t = 1; t <= 400; ++t) {
    const double w0 = w[0], w1 = w[1], w2 = w[2];
    adamw_step<double>(g, m, v, w, t, 0.01, {.decay = 0.5});
    CHECK(close(w[0], w0 * (1 - 0.005) - 0.01, 1e-12, 1));
    CHECK(close(w[1], w1 * (1 - 0.005) + 0.01, 1e-12, 1));
    CHECK(w[2] == w2 * (1 - 0.01 * 0.5));  // (2)
  }
  CHECK(m[2] == 0);
  CHECK(v[2] == 0);
  // The moments by their definition, one step on.
  const double m0 = m[0], v0 = v[0];
  g[0] = 3;
  adamw_step<double>(g, m, v, w, 401, 0.01, {.beta1 = 0.5, .beta2 = 0.75});
  CHECK(m[0] == 0.5 * m0 + 0.5 * 3);
  CHECK(v[0] == 0.75 * v0 + 0.25 * 3 * 3);
}

TEST_CASE("adamw: pieces of a buffer give the bits of the whole", "[optim]") {
  integers r{41};
  const auto g = random_tensor<float>(r, 1e-3, index_t{1001});
  tensor<float, 1> m(1001), v(1001), w = random_tensor<float>(r, 1, index_t{1001});
  auto m2 = m, v2 = v, w2 = w;
  for (index_t t = 1; t <= 3; ++t) {
    adamw_step<float>(g, m, v, w, t, 1e-3);
    for (const auto& [from, to] : {std::pair<index_t, index_t>{500, 1001}, {0, 3}, {3, 500}})
      adamw_step<float>(g.all().rows(from, to), m2.all().rows(from, to), v2.all().rows(from, to),
                        w2.all().rows(from, to), t, 1e-3);
  }
  CHECK(std::equal(w.data(), w.data() + w.size(), w2.data()));
  CHECK(std::equal(m.data(), m.data() + m.size(), m2.data()));
  CHECK(std::equal(v.data(), v.data() + v.size(), v2.data()));
  // contract
  tensor<float, 1> other(5);
  CHECK_THROWS_AS(adamw_step<float>(g, other, v, w, 1, 1), contract_violation);
  CHECK_THROWS_AS(adamw_step<float>(g, m, other, w, 1, 1), contract_violation);
  CHECK_THROWS_AS(adamw_step<float>(g, m, v, other, 1, 1), contract_violation);
  CHECK_THROWS_AS(adamw_step<float>(g, m, v, w, 0, 1), contract_violation);
}

TEST_CASE("learning rate: up, constant, down", "[optim]") {
  const learning_rate_schedule s{.peak = 1, .final = 0.1, .warmup = 10, .decay_begin = 50, .decay_end = 150};
  CHECK(s.at(1) == 0.1);
  CHECK(s.at(5) == 0.5);
  for (index_t t = 10; t <= 50; ++t) CHECK(s.at(t) == 1);  // (1)
  CHECK(close(s.at(75), 0.1 + 0.9 * (1 + std::sqrt(0.5)) / 2, 1e-15));
  CHECK(close(s.at(100), 0.55, 1e-15));
  CHECK(s.at(150) == 0.1);
  CHECK(s.at(1'000'000) == 0.1);
  for (index_t t = 11; t <= 160; ++t) CHECK(s.at(t) <= s.at(t - 1));  // (2)
  // Parts left out.
  const learning_rate_schedule flat{.peak = 3, .warmup = 0};
  CHECK(flat.at(1) == 3);
  CHECK(flat.at(1'000'000) == 3);
  const learning_rate_schedule at_once{.peak = 1, .final = 0, .warmup = 4, .decay_begin = 0, .decay_end = 6};
  CHECK(at_once.at(4) == 1);
  CHECK(close(at_once.at(5), 0.5, 1e-15));
  CHECK(at_once.at(6) == 0);
  const learning_rate_schedule cliff{.peak = 1, .final = 0.5, .warmup = 0, .decay_begin = 7, .decay_end = 8};
  CHECK(cliff.at(7) == 1);
  CHECK(cliff.at(8) == 0.5);
  CHECK_THROWS_AS(s.at(0), contract_violation);
  // Flash's numbers.
  const learning_rate_schedule flash;
  CHECK(flash.at(2000) == 2.7e-4);
  CHECK(flash.at(1000) == 1.35e-4);
}

TEMPLATE_TEST_CASE("clipping by the norm of many buffers", "[optim]", float, double) {
  using T = TestType;
  tensor<T, 1> a(1), b(9), none(0);
  a[0] = 3;
  b[8] = -4;
  const view<T, 1> buffers[] = {a, none, b};
  CHECK(global_norm<T>(buffers) == 5);
  // (1)
  CHECK(clip_gradients<T>(buffers, 5) == 5);
  CHECK(a[0] == 3);
  // (2)
  CHECK(clip_gradients<T>(buffers, 2.5) == 5);
  CHECK(a[0] == 1.5);
  CHECK(b[8] == -2);
  // (3)
  for (const T bad : {std::numeric_limits<T>::infinity(), std::numeric_limits<T>::quiet_NaN()}) {
    b[2] = bad;
    CHECK_FALSE(std::isfinite(clip_gradients<T>(buffers, 1)));
    CHECK(a[0] == 1.5);
    CHECK(b[8] == -2);
  }
  CHECK(clip_gradients<T>({}, 1) == 0);
}

TEST_CASE("the norm has the same bits whoever adds up which buffer", "[optim]") {
  integers r{42};
  std::vector<tensor<float, 1>> owners;
  for (index_t n = 0; n < 60; ++n)
    owners.push_back(random_tensor<float>(r, 0.1 * double(n), index_t{n * 37 % 101}));
  const std::vector<view<float, 1>> buffers(owners.begin(), owners.end());
  const double alone = global_norm<float>(std::span<const view<float, 1>>(buffers));
  double plain = 0;
  for (const auto& g : buffers)
    for (const float v : g) plain += double(v) * double(v);
  CHECK(close(alone, std::sqrt(plain), 1e-14));
  const tbb::global_control real(tbb::global_control::max_allowed_parallelism, 4);  // also on two cores
  for (const int threads : {1, 2, 3}) {
    std::vector<double> squares(buffers.size());
    cpu::arena_of(threads).execute([&] {
      cpu::parallel_tasks(static_cast<index_t>(buffers.size()), [&](index_t i) {
        squares[static_cast<std::size_t>(i)] = squared_norm(buffers[static_cast<std::size_t>(i)]);
      });
    });
    CHECK(global_norm(squares) == alone);
  }
}

}  // namespace dsv4_test
