// SPDX-License-Identifier: MIT
// Routed experts of exec::cpu: the bits of exec::ref, whatever the tokens, experts and threads.
#include <dsv4/cpu/moe/expert.hpp>

#include <cstring>
#include <random>
#include <vector>

#include "catch.hpp"

namespace dsv4 {
namespace {

struct experts_under_test {
  std::vector<std::vector<std::byte>> memory;
  std::vector<expert_weights<>> all;

  weight_matrix matrix(std::mt19937& random, dtype type, index_t rows, index_t cols) {
    weight_matrix w;
    w.type = type;
    w.rows = rows;
    w.cols = cols;
    std::vector<std::byte> data(static_cast<std::size_t>(rows * w.row_bytes()));
    if (type == dtype::bf16) {
      std::normal_distribution<double> normal(0, 0.1);
      for (index_t i = 0; i < rows * cols; ++i) {
        const bf16 v = bf16::encode(normal(random));
        std::memcpy(data.data() + 2 * i, &v, 2);
      }
    } else {
      for (auto& b : data)
        b = static_cast<std::byte>(type == dtype::f4_e2m1 ? random() & 255
                                                          : (random() & 0x80) | random() % 0x60);
      w.tile_rows = type == dtype::f4_e2m1 ? 1 : fp8_tile;
      w.tile_cols = type == dtype::f4_e2m1 ? fp4_tile_cols : fp8_tile;
      std::vector<std::byte> scale(
          static_cast<std::size_t>(cpu::ceil_div(rows, w.tile_rows) * w.scale_cols()));
      for (auto& b : scale) b = static_cast<std::byte>(119 + random() % 4);
      w.scale = memory.emplace_back(std::move(scale)).data();
    }
    w.data = memory.emplace_back(std::move(data)).data();
    return w;
  }
  experts_under_test(std::mt19937& random, dtype type, index_t experts, index_t d, index_t inner) {
    for (index_t e = 0; e < experts; ++e)
      all.push_back(
          {matrix(random, type, inner, d), matrix(random, type, inner, d), matrix(random, type, d, inner)});
  }
};

template <class E>
tensor<wide_t<E>, 2> run(int threads, view<bf16, 2> x, view<std::int32_t, 2> chosen,
                         view<const double, 2> weight, const std::vector<expert_weights<>>& all) {
  E e;
  if constexpr (requires { e.threads; }) e.threads = threads;
  using W = wide_t<E>;
  tensor<W, 2> weights(weight.extent(0), weight.extent(1));
  for (index_t i = 0; i < weight.size(); ++i) weights.data()[i] = static_cast<W>(weight.data()[i]);
  tensor<W, 2> routed(x.extent(0), x.extent(1));
  workspace scratch;
  kernel::scope<E>::run(e, [&] {
    kernel::experts<E>::template run<official>(e, scratch, x, routing<W>{chosen, weights}, all, 10.0,
                                               routed.all());
  });
  return routed;
}

}  // namespace

TEST_CASE("routed experts: exact has the bits of ref, fast one order", "[cpu][experts]") {
  std::mt19937 random(1);
  std::normal_distribution<double> normal(0, 1);
  const index_t experts = 16, k = 3, d = 160, inner = 96;
  for (const dtype type : {dtype::f4_e2m1, dtype::f8_e4m3, dtype::bf16}) {
    experts_under_test w(random, type, experts, d, inner);
    for (const index_t tokens : {1, 2, 7, 70, 600}) {
      CAPTURE(name_of(type), tokens);
      tensor<bf16, 2> x(tokens, d);
      tensor<std::int32_t, 2> chosen(tokens, k);
      tensor<double, 2> weight(tokens, k);
      for (bf16& v : x.all()) v = bf16::encode(normal(random));
      for (index_t t = 0; t < tokens; ++t)
        for (index_t j = 0; j < k; ++j) {
          chosen(t, j) =
              static_cast<std::int32_t>((random() % 5 + 5 * static_cast<unsigned>(j)) % experts);  // distinct
          weight(t, j) = static_cast<float>(std::fabs(normal(random)));
        }
      const auto& weights = weight;
      const auto ref = run<exec::ref>(0, x, chosen, weights.all(), w.all);
      const auto fast = run<exec::cpu_fast>(1, x, chosen, weights.all(), w.all);
      double difference = 0, size = 0;
      for (index_t i = 0; i < ref.size(); ++i) {
        difference += std::pow(fast.data()[i] - ref.data()[i], 2);
        size += std::pow(ref.data()[i], 2);
      }
      CHECK(std::sqrt(difference / size) < 0.02);  // the quantisation in the middle amplifies
      for (int threads : {1, 2}) {
        const auto exact = run<exec::cpu>(threads, x, chosen, weights.all(), w.all);
        CHECK(std::memcmp(exact.data(), ref.data(), static_cast<std::size_t>(ref.size()) * sizeof(double)) ==
              0);
      }
      const auto two = run<exec::cpu_fast>(2, x, chosen, weights.all(), w.all);
      CHECK(std::memcmp(two.data(), fast.data(), static_cast<std::size_t>(fast.size()) * sizeof(float)) == 0);
      // A token alone has the bits it has in the batch.
      for (index_t t = 0; t < std::min<index_t>(tokens, 7); ++t) {
        const auto alone = run<exec::cpu_fast>(1, x.all().rows(t, t + 1), chosen.all().rows(t, t + 1),
                                               weights.all().rows(t, t + 1), w.all);
        CHECK(std::memcmp(alone.data(), fast[t].data(), static_cast<std::size_t>(d) * sizeof(float)) == 0);
      }
    }
  }
}

}  // namespace dsv4
