// SPDX-License-Identifier: MIT
// Quantisation of master weights: numbers in brackets are the postconditions of train/quantise.hpp.
#include <bit>
#include <limits>

#include "catch.hpp"
#include "quantise_test.hpp"

namespace dsv4_test {
using Catch::Matchers::ContainsSubstring;

namespace {

template <class T>
auto bits(T x) {
  return std::bit_cast<typename train::detail::float_bits<T>::word>(x);
}

/// encode, then decode, of every value near every code and every tie.
template <class F, class T>
void check_nearest() {
  const double largest = F::from_bits(F::max_code).decode();
  const auto check = [&](T y) {
    if (std::fabs(y) > T(largest)) return;
    const T found = train::detail::nearest<F>(y), expected = static_cast<T>(F::encode(double(y)).decode());
    if (bits(found) != bits(expected))
      FAIL_CHECK(double(y) << ": found " << double(found) << ", expected " << double(expected));
  };
  for (unsigned a = 0; a <= F::max_code; ++a) {
    const double low = F::from_bits(a).decode(), high = a < F::max_code ? F::from_bits(a + 1).decode() : low;
    for (const double y : {low, (low + high) / 2, low + (high - low) / 3})
      for (const double sign : {1.0, -1.0}) {
        const T x = static_cast<T>(sign * y);
        check(x);
        check(std::nextafter(x, std::numeric_limits<T>::infinity()));
        check(std::nextafter(x, -std::numeric_limits<T>::infinity()));
      }
  }
  check(std::numeric_limits<T>::denorm_min());
  integers r{7};
  for (int k = 0; k < 20000; ++k)
    check(static_cast<T>((double(r.next() >> 11) * 0x1p-52 - 1) * largest *
                         std::ldexp(1.0, -int(r.below(20)))));
}

}  // namespace

TEST_CASE("rounding by adding is encode then decode", "[train_quantise]") {
  check_nearest<e2m1, float>();
  check_nearest<e4m3, float>();
  check_nearest<e2m1, double>();
  check_nearest<e4m3, double>();
}

TEST_CASE("fake_quantise is the storage type's encode and decode in both precisions [1], once is enough [2]",
          "[train_quantise]") {
  const auto run = [](auto zero, const config& c) {
    using T = decltype(zero);
    const auto layout = parameter_layout::of<T>(c);
    const tensor<T, 1> master = master_weights<T>(layout, 3);
    tensor<T, 1> out(layout.size), again(layout.size);
    fake_quantise(layout, master.all(), out.all());
    fake_quantise(layout, std::as_const(out).all(), again.all());
    std::size_t wrong = 0, moved = 0;
    for (const train::parameter_info& p : layout.all) {
      const weight_format s = p.format;
      const index_t cols = p.shape.size() == 2 ? p.shape[1] : 1, rows = p.size() / cols;
      const view<const T, 2> w(master.data() + p.offset, rows, cols);
      const train::scale_tile t = train::tile_of(s);
      tensor<double, 2> largest(t.count_rows(rows), t.count_cols(cols));
      std::fill_n(largest.data(), largest.size(), s == weight_format::fp8 ? 1e-4 : 6 * std::ldexp(1.0, -126));
      for (index_t o = 0; o < rows; ++o)
        for (index_t i = 0; i < cols; ++i) {
          double& m = largest(o / t.rows, i / t.cols);
          m = std::max(m, std::fabs(double(w(o, i))));
        }
      for (index_t o = 0; o < rows; ++o)
        for (index_t i = 0; i < cols; ++i) {
          double expected = 0;
          if (s == weight_format::f32) {
            expected = static_cast<float>(w(o, i));
          } else if (s == weight_format::bfloat16) {
            expected = bf16::encode(double(w(o, i))).decode();
          } else {
            const double amax = largest(o / t.rows, i / t.cols);
            int e = -200;  // 2^ceil(log2(amax / largest))
            while (std::ldexp(1.0, e) * (s == weight_format::fp8 ? 448 : 6) < amax) ++e;
            const double scale = std::ldexp(1.0, e), y = double(w(o, i)) / scale;
            expected =
                (s == weight_format::fp8 ? e4m3::encode(y).decode() : e2m1::encode(y).decode()) * scale;
          }
          const index_t at = p.offset + o * cols + i;
          wrong += bits(out(at)) != bits(static_cast<T>(expected));
          moved += bits(out(at)) != bits(again(at));
        }
    }
    CHECK(wrong == 0);
    CHECK(moved == 0);
    // In place.
    tensor<T, 1> same = master;
    fake_quantise(layout, std::as_const(same).all(), same.all());
    CHECK(std::equal(same.data(), same.data() + same.size(), out.data()));
  };
  run(0.0f, tiny_config());
  run(0.0f, partial_config());
  run(0.0, partial_config());
}

TEST_CASE("a parameter's storage is its role", "[train_quantise]") {
  const auto layout = parameter_layout::of<float>(tiny_config());
  const auto format_of = [&](const char* name) {
    const train::parameter_info* p = layout.find(name);
    REQUIRE(p);
    return p->format;
  };
  CHECK(format_of("layers.2.ffn.experts.5.w2.weight") == weight_format::fp4);
  CHECK(format_of("mtp.0.ffn.experts.0.w1.weight") == weight_format::fp4);
  for (const char* name :
       {"layers.0.ffn.shared_experts.w1.weight", "layers.0.attn.wq_a.weight", "layers.0.attn.wq_b.weight",
        "layers.0.attn.wkv.weight", "layers.0.attn.wo_a.weight", "mtp.0.attn.wo_b.weight",
        "layers.1.attn.indexer.wq_b.weight", "mtp.0.e_proj.weight", "mtp.0.h_proj.weight"})
    CHECK(format_of(name) == weight_format::fp8);
  for (const char* name :
       {"embed.weight", "head.weight", "norm.weight", "mtp.0.norm.weight", "layers.0.attn_norm.weight",
        "layers.0.attn.q_norm.weight", "layers.0.ffn.gate.weight", "layers.2.attn.compressor.wkv.weight",
        "layers.2.attn.compressor.wgate.weight", "layers.2.attn.compressor.norm.weight",
        "layers.1.attn.indexer.compressor.wkv.weight", "layers.1.attn.indexer.weights_proj.weight"})
    CHECK(format_of(name) == weight_format::bfloat16);
  for (const char* name : {"hc_head_fn", "layers.0.hc_attn_base", "layers.0.hc_ffn_scale",
                           "layers.0.attn.attn_sink", "layers.2.attn.compressor.ape"})
    CHECK(format_of(name) == weight_format::f32);
}

TEST_CASE("weights that are not finite are refused with their name and place", "[train_quantise]") {
  const auto layout = parameter_layout::of<float>(tiny_config());
  for (const char* name : {"embed.weight", "layers.1.ffn.experts.2.w2.weight", "layers.0.attn.wq_a.weight",
                           "hc_head_fn", "norm.weight"}) {
    const train::parameter_info& p = *layout.find(name);
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), -0x1p127f}) {
      tensor<float, 1> w = master_weights(layout, 1), out(layout.size);
      const index_t at = p.shape.size() == 2 ? p.shape[1] + 5 : 5;
      w(p.offset + at) = bad;
      const std::string message =
          message_of([&] { fake_quantise(layout, std::as_const(w).all(), out.all()); });
      CHECK_THAT(message, ContainsSubstring(name));
      CHECK_THAT(message, ContainsSubstring(p.shape.size() == 2 ? "[1, 5]" : "[5]"));
    }
  }
  // The largest that is taken rounds to a finite number everywhere.
  tensor<float, 1> w(layout.size), out(layout.size);
  std::fill_n(w.data(), w.size(), std::nextafter(0x1p127f, 0.0f));
  fake_quantise(layout, std::as_const(w).all(), out.all());
  std::size_t infinite = 0;
  for (const train::parameter_info& p : layout.all)
    for (index_t k = 0; k < p.size(); ++k) infinite += !std::isfinite(out(p.offset + k));
  CHECK(infinite == 0);
}

}  // namespace dsv4_test
