// SPDX-License-Identifier: MIT
// Quantisers of exec::cpu: the bits of exec::ref, for every bf16 and for awkward blocks.
#include <dsv4/cpu/op/act_quant.hpp>

#include <cstring>
#include <random>

#include "catch.hpp"

namespace dsv4 {
namespace {

template <class A>
bool same(const tensor<A, 2>& a, const tensor<A, 2>& b) {
  return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(A)) == 0;
}

template <class A>
void check(const tensor<A, 2>& x) {
  const index_t t = x.extent(0), k = x.extent(1), blocks = (k + fp8_tile - 1) / fp8_tile;
  exec::ref ref;
  exec::cpu cpu;
  tensor<A, 2> in = x;
  tensor<e4m3, 2> code(t, k), code_ref(t, k);
  tensor<float, 2> scale(t, blocks), scale_ref(t, blocks);
  act_quant(ref, in.all(), code_ref.all(), scale_ref.all());
  act_quant(cpu, in.all(), code.all(), scale.all());
  CHECK(same(code, code_ref));
  CHECK(same(scale, scale_ref));
  for (const index_t block : {64, 32, 128, 200}) {
    tensor<A, 2> a = x, b = x;
    act_quant_in_place(ref, a.all(), k - k / 4, block);
    act_quant_in_place(cpu, b.all(), k - k / 4, block);
    CHECK(same(a, b));
  }
  tensor<A, 2> a = x, b = x;
  fp4_act_quant(ref, a.all());
  fp4_act_quant(cpu, b.all());
  CHECK(same(a, b));
}

}  // namespace

TEST_CASE("every bf16 in a block of every scale", "[cpu][act_quant]") {
  // Row r: all 65536 codes, with one value per block that sets the scale.
  std::mt19937 random(1);
  tensor<bf16, 2> x(40, 65536);
  for (index_t r = 0; r < x.extent(0); ++r)
    for (index_t i = 0; i < x.extent(1); ++i) {
      x(r, i) = bf16::from_bits(static_cast<unsigned>(i));
      const int e = static_cast<int>(r) * 6 - 120;
      if (std::fabs(widen<double>(x(r, i))) > std::ldexp(1.0, e))
        x(r, i) = {static_cast<std::uint16_t>((random() & 0x807F) | unsigned(e + 126) << 7)};
    }
  check(x);
}

TEST_CASE("special values and odd sizes", "[cpu][act_quant]") {
  std::mt19937 random(2);
  std::normal_distribution<double> normal(0, 1);
  for (const index_t k : {1, 31, 64, 100, 128, 129, 512, 1000})
    for (const double size : {1e-30, 1e-6, 1.0, 448.0, 1e30}) {
      tensor<bf16, 2> x(9, k);
      tensor<float, 2> y(9, k);
      tensor<double, 2> z(9, k);
      for (index_t i = 0; i < x.size(); ++i) {
        const double v = normal(random) * size;
        x.data()[i] = bf16::encode(v);
        y.data()[i] = static_cast<float>(v);
        z.data()[i] = v;
      }
      for (index_t i = 0; i < k; ++i) x(1, i) = {}, y(1, i) = -0.0f;                       // zeros
      x(2, k / 2) = bf16::from_bits(0x7FC0), y(2, 0) = std::nanf("");                      // NaN
      x(3, k / 2) = bf16::from_bits(0xFF80), y(3, 0) = -HUGE_VALF;                         // infinity
      for (index_t i = 0; i < k; ++i) x(4, i) = store<bf16>(448.0), y(4, i) = 6.0f;        // the largest code
      y(5, 0) = std::nextafter(448.0f, 1000.0f);                                           // just above
      for (index_t i = 0; i < k; ++i) x(6, i) = bf16::from_bits(1 + random() % 100);       // subnormal
      for (index_t i = 0; i < k; ++i) y(6, i) = std::ldexp(float(random() % 64) / 8, -9);  // ties
      check(x);
      check(y);
      check(z);
    }
}

}  // namespace dsv4
