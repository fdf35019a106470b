// SPDX-License-Identifier: MIT
// Muon beside golden/optimizer: the update's size, its options, threads, contracts, allocation.
#include "dsv4/optim/muon.hpp"

#include <tbb/global_control.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "catch.hpp"
#include "dsv4/cpu/optim/muon.hpp"
#include "dsv4/cpu/parallel.hpp"
#include "executors.hpp"
#include "operands.hpp"

namespace dsv4_test {
namespace {

template <class T>
struct parameter {
  tensor<T, 2> g, m, w;
};
template <class T>
std::vector<parameter<T>> parameters(std::uint64_t seed) {
  integers r{seed};
  std::vector<parameter<T>> all;
  for (const auto& [o, i] : {std::pair<index_t, index_t>{1, 7},
                             {24, 16},
                             {130, 200},
                             {5, 5},
                             {256, 64},
                             {3, 90},
                             {64, 64},
                             {150, 140}})
    all.push_back({random_tensor<T>(r, 1, o, i), random_tensor<T>(r, 1, o, i), random_tensor<T>(r, 1, o, i)});
  return all;
}
double root_mean_square(const tensor<double, 2>& x) {
  return std::sqrt(std::inner_product(x.data(), x.data() + x.size(), x.data(), 0.) / double(x.size()));
}

}  // namespace

TEMPLATE_TEST_CASE("the update of a matrix of full rank has root mean square gamma", "[optim]",
                   DSV4_TEST_EXECUTORS) {
  integers r{21};
  TestType e;
  workspace scratch;
  for (const auto& [o, i] : {std::pair<index_t, index_t>{1, 7}, {12, 60}, {60, 12}}) {
    const auto g = random_tensor<double>(r, 1, o, i);
    tensor<double, 2> m(o, i), w(o, i);
    muon_step<double>(e, scratch, g, m, w, 1, {.decay = 0});
    CHECK(close(root_mean_square(w), 0.18, 0.001));
    // Downhill.
    CHECK(std::inner_product(w.data(), w.data() + w.size(), g.data(), 0.) < 0);
    // (1)
    CHECK(root_mean_square(w) * std::sqrt(double(w.size())) <= 1.0021 * 0.18 * std::sqrt(double(o * i)));
  }
}

TEMPLATE_TEST_CASE("momentum, Nesterov and decay, each by its definition", "[optim]", DSV4_TEST_EXECUTORS) {
  integers r{22};
  TestType e;
  workspace scratch;
  const auto g = random_tensor<double>(r, 1, index_t{6}, index_t{9}),
             m0 = random_tensor<double>(r, 1, index_t{6}, index_t{9}),
             w0 = random_tensor<double>(r, 1, index_t{6}, index_t{9});
  for (const bool nesterov : {false, true}) {
    const muon_options options{.momentum = 0.7, .decay = 0.3, .gamma = 0.5, .nesterov = nesterov};
    auto m = m0, w = w0;
    muon_step<double>(e, scratch, g, m, w, 0.01, options);
    tensor<double, 2> o(6, 9);
    for (index_t n = 0; n < o.size(); ++n) {
      const double moved = 0.7 * m0.data()[n] + g.data()[n];
      CHECK(m.data()[n] == moved);
      o.data()[n] = nesterov ? 0.7 * moved + g.data()[n] : moved;
    }
    newton_schulz(e, scratch, o.all(), o.all());
    for (index_t n = 0; n < o.size(); ++n)
      CHECK(close(w.data()[n], w0.data()[n] * (1 - 0.01 * 0.3) - 0.01 * 0.5 * 3 * o.data()[n], 1e-15, 1));
  }
  // (2)
  tensor<float, 2> zero(4, 4), m(4, 4), w(4, 4);
  for (index_t n = 0; n < w.size(); ++n) w.data()[n] = float(n) - 7;
  muon_step<float>(e, scratch, zero, m, w, 0.5);
  for (index_t n = 0; n < w.size(); ++n) {
    CHECK(w.data()[n] == float((double(n) - 7) * (1 - 0.5 * 0.1)));
    CHECK(m.data()[n] == 0);
  }
}

TEMPLATE_TEST_CASE("cpu takes ref's steps", "[optim]", exec::cpu, exec::cpu_fast) {
  auto found = parameters<float>(23), expected = parameters<float>(23);
  TestType e;
  exec::ref ref;
  workspace scratch;
  for (std::size_t p = 0; p < found.size(); ++p)
    for (int step = 0; step < 3; ++step) {
      muon_step<float>(e, scratch, found[p].g, found[p].m, found[p].w, 2.7e-4);
      muon_step<float>(ref, scratch, expected[p].g, expected[p].m, expected[p].w, 2.7e-4);
      CAPTURE(p, step);
      bool m_equal = true;
      double worst = 0;
      for (index_t n = 0; n < found[p].w.size(); ++n) {
        m_equal = m_equal && found[p].m.data()[n] == expected[p].m.data()[n];
        worst = std::max(worst, std::fabs(double(found[p].w.data()[n]) - double(expected[p].w.data()[n])));
      }
      CHECK(m_equal);
      CHECK(worst <= 0x1p-23);  // w is below 1: one rounding a step
    }
}

TEMPLATE_TEST_CASE("threads do not change a bit", "[optim]", exec::cpu, exec::cpu_fast) {
  const tbb::global_control real(tbb::global_control::max_allowed_parallelism, 4);  // also on two cores
  const auto run = [&]<class T>(T, int threads) {
    auto all = parameters<T>(24);
    TestType e{threads};
    kernel::scope<TestType>::run(e, [&] {
      for (int step = 0; step < 2; ++step)
        cpu::parallel_tasks(static_cast<index_t>(all.size()), [&](index_t p) {
          auto& x = all[static_cast<std::size_t>(p)];
          muon_step<T>(e, cpu::local_scratch(), x.g, x.m, x.w, 2.7e-4);
        });
    });
    return all;
  };
  const auto check = [&]<class T>(T zero) {
    const auto one = run(zero, 1);
    for (const int threads : {2, 3}) {
      const auto more = run(zero, threads);
      for (std::size_t p = 0; p < one.size(); ++p) {
        const auto bytes = static_cast<std::size_t>(one[p].w.size()) * sizeof(T);
        CHECK(std::memcmp(one[p].m.data(), more[p].m.data(), bytes) == 0);
        CHECK(std::memcmp(one[p].w.data(), more[p].w.data(), bytes) == 0);
      }
    }
  };
  check(float{});
  check(double{});
}

TEST_CASE("muon refuses shapes that disagree", "[optim]") {
  exec::ref e;
  workspace scratch;
  tensor<float, 2> a(2, 3), b(3, 2), empty(0, 3);
  CHECK_THROWS_AS(muon_step<float>(e, scratch, a, b, a, 1), contract_violation);
  CHECK_THROWS_AS(muon_step<float>(e, scratch, a, a, b, 1), contract_violation);
  muon_step<float>(e, scratch, empty, empty, empty, 1);
}

}  // namespace dsv4_test
