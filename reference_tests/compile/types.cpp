// SPDX-License-Identifier: MIT
// What the types promise.  Compiling this file is the test.
#include <dsv4/core/contract.hpp>
#include <dsv4/core/exec.hpp>
#include <dsv4/core/tensor.hpp>
#include <dsv4/num/block_scaled.hpp>
#include <dsv4/num/policy.hpp>
#include <dsv4/op/act_quant.hpp>

namespace dsv4 {

// Views travel by value into kernels, of this machine or another.
template <class V>
inline constexpr bool plain_value =
    std::conjunction_v<std::is_trivially_copyable<V>, std::is_trivially_destructible<V>,
                       std::is_standard_layout<V>>;
static_assert(plain_value<vec<float>> && plain_value<mat<const bf16>> && plain_value<view<double, 5>>);
static_assert(plain_value<mat<float, mem::device>> && plain_value<weight_matrix> &&
              plain_value<quantised_activations>);

// Mutable to constant, and nothing else: not back, not across memory spaces, ranks or element types.
static_assert(std::is_convertible_v<mat<float>, mat<const float>>);
static_assert(!std::is_convertible_v<mat<const float>, mat<float>>);
static_assert(!std::is_convertible_v<mat<float, mem::device>, mat<float>>);
static_assert(!std::is_convertible_v<mat<float>, mat<float, mem::device>>);
static_assert(!std::is_convertible_v<mat<float, mem::device>, mat<const float>>);
static_assert(!std::is_convertible_v<mat<float>, vec<float>> &&
              !std::is_convertible_v<mat<float>, mat<double>>);

// Subscripts peel axes off the front.
static_assert(std::is_same_v<decltype(std::declval<cube<const float>>()[0]), mat<const float>>);
static_assert(std::is_same_v<decltype(std::declval<vec<float>>()[0]), float&>);
static_assert(std::is_same_v<decltype(std::declval<mat<float, mem::device>>()[0]), vec<float, mem::device>>);
static_assert([] {
  int data[24] = {};
  const cube<int> x(data, 2, 3, 4);
  for (int i = 0; i < 24; ++i) data[i] = i;
  return x.size() == 24 && x.row_size() == 12 && x(1, 2, 3) == 23 && x[1][0][1] == 13 &&
         x.rows(1, 2)(0, 0, 0) == 12 && x.reshape(4, 6)(3, 5) == 23 &&
         x.extents() == std::array<index_t, 3>{2, 3, 4};
}());

// Owners give views and are not views.
static_assert(std::is_convertible_v<tensor<float, 2>&, mat<float>>);
static_assert(std::is_convertible_v<const tensor<float, 2>&, mat<const float>>);
static_assert(!std::is_convertible_v<const tensor<float, 2>&, mat<float>>);
static_assert(std::is_nothrow_move_constructible_v<tensor<float, 2>>);

// Executors and policies are what the concepts ask for.
static_assert(execution<exec::ref> && execution<exec::cpu> && execution<exec::cpu_fast> && !execution<int>);
static_assert(std::is_same_v<wide_t<exec::ref>, double> && std::is_same_v<wide_t<exec::cpu>, double>);
static_assert(std::is_same_v<wide_t<exec::cpu_fast>, float> && std::is_same_v<mem_of<exec::cpu>, mem::host>);
static_assert(numerics_policy<official> && numerics_policy<float32<>> && numerics_policy<float32<double>>);
static_assert(std::is_same_v<act_t<official>, bf16> && std::is_same_v<act_t<float32<>>, float>);

// Formats have the size of their bits, and their constants follow from their definition.
static_assert(sizeof(bf16) == 2 && sizeof(f16) == 2 && sizeof(e4m3) == 1 && sizeof(e2m1) == 1 &&
              sizeof(e8m0) == 1);
static_assert(bf16::bias == 127 && f16::bias == 15 && e4m3::bias == 7 && e2m1::bias == 1);
static_assert(bits_of(dtype::f4_e2m1) == 4 && name_of(dtype::f8_e4m3) == "F8_E4M3");

// Errors: four kinds, one base.
static_assert(std::is_base_of_v<error, contract_violation> && std::is_base_of_v<error, format_error>);
static_assert(std::is_base_of_v<error, unsupported> && std::is_base_of_v<error, internal_error>);
static_assert(std::is_base_of_v<std::runtime_error, error>);

}  // namespace dsv4
