// SPDX-License-Identifier: MIT
// The operators of op/: exec::cuda gives the bits of exec::ref.
#include "cuda_host/exact.hpp"

namespace dsv4_test {

#define DSV4_STORED_TYPES bf16, float

TEMPLATE_TEST_CASE("rms_norm and head_norm on CUDA", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::ref ref;
  exec::cuda cuda;
  integers r{1};
  for (const index_t t : edge_rows)
    for (const index_t d : {1, 31, 130, 300}) {
      const auto x = random_tensor<A>(r, 3, t, d);
      const auto w = random_tensor<float>(r, 2, d);
      tensor<A, 2> expected(t, d), y(t, d);
      kernel::rms_norm<exec::ref>::run(ref, x.all(), w.all(), 1e-6, expected.all());
      const auto q = random_tensor<A>(r, 3, t, index_t{3}, d);
      auto expected_q = q;
      kernel::head_norm<exec::ref>::run(ref, expected_q.all(), 1e-6);
      under_schedules([&] {
        kernel::rms_norm<exec::cuda>::run(cuda, on_device(x), on_device(w), 1e-6, on_device(y));
        CHECK(same_bits(y, expected));
        auto in_place = x;
        kernel::rms_norm<exec::cuda>::run(cuda, view<const A, 2, mem::device>(on_device(in_place)),
                                          on_device(w), 1e-6, on_device(in_place));
        CHECK(same_bits(in_place, expected));
        auto heads = q;
        kernel::head_norm<exec::cuda>::run(cuda, on_device(heads), 1e-6);
        CHECK(same_bits(heads, expected_q));
      });
    }
}

TEMPLATE_TEST_CASE("Quantised activations on CUDA", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::ref ref;
  exec::cuda cuda;
  integers r{2};
  for (const index_t t : edge_rows)
    for (const index_t k : {1, 64, 200}) {
      auto x = random_tensor<A>(r, 40, t, k);
      if (t > 0) x(0, 0) = store<A>(0.0), x(t - 1, k - 1) = store<A>(1e30);
      const index_t blocks = (k + fp8_tile - 1) / fp8_tile;
      tensor<e4m3, 2> code(t, k), expected_code(t, k);
      tensor<float, 2> scale(t, blocks), expected_scale(t, blocks);
      kernel::act_quant<exec::ref>::run(ref, std::as_const(x).all(), expected_code.all(),
                                        expected_scale.all());
      auto fp8 = x, fp4 = x;
      const index_t channels = k - k / 4;
      kernel::act_quant_in_place<exec::ref>::run(ref, fp8.all(), channels, kv_quant_block);
      kernel::fp4_act_quant<exec::ref>::run(ref, fp4.all());
      under_schedules([&] {
        kernel::act_quant<exec::cuda>::run(cuda, view<const A, 2, mem::device>(on_device(x)), on_device(code),
                                           on_device(scale));
        CHECK(same_bits(code, expected_code));
        CHECK(same_bits(scale, expected_scale));
        auto y = x, z = x;
        kernel::act_quant_in_place<exec::cuda>::run(cuda, on_device(y), channels, kv_quant_block);
        CHECK(same_bits(y, fp8));
        kernel::fp4_act_quant<exec::cuda>::run(cuda, on_device(z));
        CHECK(same_bits(z, fp4));
      });
    }
}

TEMPLATE_TEST_CASE("Products of every weight format on CUDA, stored and wide", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::ref ref;
  exec::cuda cuda;
  integers r{3};
  random_model m(tiny_config());
  const index_t o = 130, k = 160, groups = 5;
  for (const stored_as format : {stored_as::f32, stored_as::bf16, stored_as::fp8, stored_as::fp4}) {
    const unaligned_weights mapped(m.matrix(o, k, format));
    for (const index_t t : edge_rows) {
      auto x = random_tensor<A>(r, 2, t, k);
      tensor<e4m3, 2> code(t, k);
      tensor<float, 2> scale(t, index_t{2});
      act_quant(ref, x.all(), code.all(), scale.all());
      const auto xg = random_tensor<A>(r, 2, t, groups, k);
      tensor<A, 2> expected(t, o), y(t, o);
      tensor<double, 2> expected_wide(t, o), wide(t, o), expected_q(t, o), q(t, o);
      tensor<A, 3> expected_g(t, groups, o / groups), yg(t, groups, o / groups);
      const view<const A, 2> xv = x.all();
      const basic_quantised_activations<mem::device> quantised{on_device(std::as_const(code)),
                                                               on_device(std::as_const(scale))};
      const auto w = on_device(mapped.w);
      kernel::linear<exec::ref>::run(ref, xv, mapped.w, expected.all());
      kernel::linear<exec::ref>::run(ref, xv, mapped.w, expected_wide.all());
      kernel::linear<exec::ref>::run(ref, quantised_activations{code.all(), scale.all()}, mapped.w,
                                     expected_q.all());
      kernel::grouped_linear<exec::ref>::run(ref, xg.all(), mapped.w, expected_g.all());
      under_schedules([&] {
        const view<const A, 2, mem::device> in = on_device(x);
        kernel::linear<exec::cuda>::run(cuda, in, w, on_device(y));
        CHECK(same_bits(y, expected));
        kernel::linear<exec::cuda>::run(cuda, in, w, on_device(wide));
        CHECK(same_bits(wide, expected_wide));
        kernel::linear<exec::cuda>::run(cuda, quantised, w, on_device(q));
        CHECK(same_bits(q, expected_q));
        kernel::grouped_linear<exec::cuda>::run(cuda, on_device(xg), w, on_device(yg));
        CHECK(same_bits(yg, expected_g));
      });
    }
  }
}

TEMPLATE_TEST_CASE("Rotation on CUDA", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::ref ref;
  exec::cuda cuda;
  integers r{4};
  const index_t pairs = 5, heads = 3, d = 16, first = 1000000, step = 4;
  tensor<float, 1> inv_freq = rotary_frequencies(10000, 2 * pairs, nullptr);
  for (const index_t t : edge_rows) {
    tensor<float, 2> cos(t, pairs), sin(t, pairs), c(t, pairs), s(t, pairs);
    const rotary_angles angles{cos.all(), sin.all()};
    for (index_t i = 0; i < t; ++i) angles.set(i, first + i * step, inv_freq.all());
    const auto x = random_tensor<A>(r, 3, t, heads, d);
    for (const rotation way : {rotation::forward, rotation::inverse}) {
      auto expected = x;
      kernel::rope<exec::ref>::run(ref, expected.all(), angles, way);
      under_schedules([&] {
        const basic_rotary_angles<mem::device> angles2{on_device(c), on_device(s)};
        const position_run run{0, t, first, step};
        kernel::set_angles<exec::cuda>::run(cuda, std::span(&run, 1), on_device(std::as_const(inv_freq)),
                                            angles2);
        CHECK(same_bits(c, cos));
        CHECK(same_bits(s, sin));
        auto y = x;
        kernel::rope<exec::cuda>::run(cuda, on_device(y), angles2, way);
        CHECK(same_bits(y, expected));
      });
    }
  }
}

TEMPLATE_TEST_CASE("Hadamard and SwiGLU on CUDA", "[cuda]", DSV4_STORED_TYPES) {
  using A = TestType;
  exec::ref ref;
  exec::cuda cuda;
  integers r{5};
  for (const index_t t : edge_rows)
    for (const index_t d : {1, 2, 64, 512}) {
      const auto x = random_tensor<A>(r, 3, t, d), u = random_tensor<A>(r, 12, t, d),
                 a = random_tensor<A>(r, 12, t, d);
      const auto weight = random_tensor<double>(r, 1, t);
      auto rotated = x;
      kernel::hadamard<exec::ref>::run(ref, rotated.all());
      tensor<A, 2> plain(t, d), weighted(t, d), z(t, d);
      kernel::swiglu<exec::ref>::run(ref, a.all(), u.all(), {}, 10, plain.all());
      kernel::swiglu<exec::ref>::run(ref, a.all(), u.all(), weight.all(), 10, weighted.all());
      under_schedules([&] {
        auto y = x;
        kernel::hadamard<exec::cuda>::run(cuda, on_device(y));
        CHECK(same_bits(y, rotated));
        kernel::swiglu<exec::cuda>::run(cuda, on_device(a), on_device(u), {}, 10, on_device(z));
        CHECK(same_bits(z, plain));
        kernel::swiglu<exec::cuda>::run(cuda, on_device(a), on_device(u), on_device(weight), 10,
                                        on_device(z));
        CHECK(same_bits(z, weighted));
      });
    }
}

}  // namespace dsv4_test
