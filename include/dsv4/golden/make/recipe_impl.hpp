// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of recipe.hpp.
#include "../../core/config_macros.hpp"
#include "recipe.hpp"

namespace dsv4::golden {

DSV4_INLINE void weight_recipe::fill(const io::hub_tensor& t, index_t at, std::span<std::byte> out) const {
  const index_t each = bits_of(t.type) / 8, unit = t.type == dtype::i64 ? t.shape.back() * each : each;
  expects(at % unit == 0 && static_cast<index_t>(out.size()) % unit == 0,
          "weight_recipe::fill: part of " + t.name);
  recipe_rule rule = rule_of(t.name);
  if (t.type == dtype::f8_e8m0) rule.kind = recipe_class::scale;
  const std::uint64_t start = mix(fnv1a(t.name) ^ seed_);
  const int e = exponent(t, rule);
  const index_t first = at / each, n = static_cast<index_t>(out.size()) / each;
  switch (t.type) {
    case dtype::f32:
      return each_draw<std::uint32_t>(start, first, n, [&](index_t i, std::uint32_t u) {
        const float v = f32_of(u, rule, e);
        std::memcpy(out.data() + 4 * i, &v, sizeof v);
      });
    case dtype::bf16:
      return each_draw<std::uint8_t>(start, first, n, [&](index_t i, std::uint8_t u) {
        // 8 bits fit the significand: the upper half of the float is exact.
        const auto bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(bf16_of(u, rule, e)) >> 16);
        std::memcpy(out.data() + 2 * i, &bits, sizeof bits);
      });
    case dtype::f8_e4m3:
      return each_draw<std::uint16_t>(start, first, n,
                                      [&](index_t i, std::uint16_t u) { out[usize(i)] = e4m3_of(u); });
    case dtype::i8:  // two FP4 codes: all sixteen alike
      return each_draw<std::uint8_t>(start, first, n,
                                     [&](index_t i, std::uint8_t u) { out[usize(i)] = std::byte{u}; });
    case dtype::f8_e8m0:
      return each_draw<std::uint8_t>(start, first, n, [&](index_t i, std::uint8_t u) {
        constexpr int bias = 127;  // check: 127 == 2**7 - 1
        out[usize(i)] = static_cast<std::byte>(bias + e + (u & 1));
      });
    case dtype::i64: return expert_rows(t, start, first, n, out);
    default: expects(false, "weight_recipe: " + t.name + " has a type that checkpoints do not have");
  }
}

DSV4_INLINE int weight_recipe::exponent(const io::hub_tensor& t, const recipe_rule& rule) {
  int e = rule.gain;
  if (rule.kind == recipe_class::matrix || rule.kind == recipe_class::scale)
    for (index_t n = 1; n < t.columns; n *= 4) --e;
  // FP4 codes reach 6, FP8 codes (below) 15/8: their scales differ by 4.
  const bool fp4 = rule.kind == recipe_class::scale && t.name.find(".experts.") != std::string::npos;
  return fp4 ? e - 2 : e;
}

DSV4_INLINE float weight_recipe::f32_of(std::uint32_t u, const recipe_rule& rule, int e) {
  const int k = static_cast<int>(u >> 8) - (1 << 23);
  if (rule.kind == recipe_class::around_one) return 1 + static_cast<float>((k >> 17)) * 0x1p-7f;
  return std::ldexp(static_cast<float>(k), e - (rule.kind == recipe_class::matrix ? 22 : 23));
}

DSV4_INLINE float weight_recipe::bf16_of(std::uint8_t u, const recipe_rule& rule, int e) {
  const int k = static_cast<int>(u) - 128;
  if (rule.kind == recipe_class::around_one) return 1 + static_cast<float>(k >> 1) * 0x1p-7f;
  return std::ldexp(static_cast<float>(k), e - 6);
}

DSV4_INLINE std::byte weight_recipe::e4m3_of(std::uint16_t u) {
  constexpr unsigned sign_and_small = 0x8F, sign_and_five_bits = 0x9F, field_four = 0x20, rare = 4;
  const unsigned low = u & 0xFF, high = u >> 8;
  return static_cast<std::byte>(high < rare ? low & sign_and_small : (low & sign_and_five_bits) | field_four);
}

DSV4_INLINE void weight_recipe::expert_rows(const io::hub_tensor& t, std::uint64_t start, index_t first,
                                            index_t n, std::span<std::byte> out) const {
  const index_t k = t.shape.back();
  const auto experts = static_cast<std::uint64_t>(experts_);
  for (index_t i = 0; i < n; i += k) {
    const std::uint64_t u = draw(start, (first + i) / k);
    const std::uint64_t stride = 1 + (u >> 32) % (experts / static_cast<std::uint64_t>(k));
    for (index_t j = 0; j < k; ++j) {
      const auto e =
          static_cast<std::int64_t>(((u & 0xFFFFFFFFu) + static_cast<std::uint64_t>(j) * stride) % experts);
      std::memcpy(out.data() + 8 * (i + j), &e, sizeof e);
    }
  }
}

}  // namespace dsv4::golden
