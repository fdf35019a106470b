// SPDX-License-Identifier: MIT
#pragma once
/// Weights from a seed: the same bits in any language, so that a bundle need not carry its weights.
/// `splitmix-v1` uses 64-bit integers and powers of two only; docs/bundle-format.md is its specification,
/// docs/recipe.py the same in numpy.
///
///   start   = mix(fnv1a(name) xor seed)                      one stream per tensor, by the hub's name
///   draw[i] = mix(start + (i + 1) 0x9E3779B97F4A7C15)        splitmix64: any part of a tensor can be made alone
///
/// The draws' little-endian bytes are one stream of unsigned numbers u as wide as an element needs, and a
/// tensor's class (below) says which value u becomes.  Matrices get entries of about 2^gain / sqrt(columns):
/// what enters the SwiGLU (gain 2) is clamped now and then, attention sinks weigh as much as tokens do,
/// Sinkhorn begins far from symmetric.  reference_tests/unit/golden/bundles.cpp counts what occurs.
#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include "../../io/hub_layout.hpp"

namespace dsv4::golden {

/// How a tensor's numbers are made.
enum class recipe_class : std::uint8_t {
  matrix,      ///< symmetric around 0, about 2^gain / sqrt(columns)
  scale,       ///< E8M0 beside it: its power of two, or twice that
  around_one,  ///< [1/2, 3/2) in steps of 2^-7, exact in bf16
  vector,      ///< [-2^gain, 2^gain)
  experts,     ///< num_experts_per_tok different experts for each token
};
struct recipe_rule {
  std::string_view part;  ///< of the name
  recipe_class kind;
  int gain;
};
/// The first whose `part` a name contains.
inline constexpr recipe_rule recipe_rules[] = {
    {"tid2eid", recipe_class::experts, 0},
    {"norm", recipe_class::around_one, 0},  // attn_norm, enorm, compressor.norm, …
    {"_scale", recipe_class::around_one, 0},
    {"_base", recipe_class::vector, 0},
    {"attn_sink", recipe_class::vector, 1},
    {".ape", recipe_class::vector, 0},
    {"gate.bias", recipe_class::vector, -1},
    {"embed.", recipe_class::matrix, 2},
    {".w1.", recipe_class::matrix, 2},
    {".w3.", recipe_class::matrix, 2},
    {"", recipe_class::matrix, 0},
};
constexpr const recipe_rule& rule_of(std::string_view name) {
  for (const recipe_rule& r : recipe_rules)
    if (name.find(r.part) != name.npos) return r;
  return recipe_rules[std::size(recipe_rules) - 1];
}

/// @throws contract_violation a tensor of a type that published checkpoints do not have
class weight_recipe {
 public:
  static constexpr std::string_view name = "splitmix-v1";

  /// `experts`: of the configuration, for the tables of hash layers.
  weight_recipe(std::uint64_t seed, index_t experts) : seed_(seed), experts_(experts) {}

  /// Bytes [at, at + out.size()) of the tensor: whole elements, of a table of experts whole rows.
  void fill(const io::hub_tensor& t, index_t at, std::span<std::byte> out) const;

 private:
  static constexpr std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  static constexpr std::uint64_t draw(std::uint64_t start, index_t i) {
    return mix(start + (static_cast<std::uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u);
  }
  static constexpr std::uint64_t fnv1a(std::string_view s) {
    std::uint64_t h = 0xCBF29CE484222325u;
    for (const char c : s) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
    return h;
  }
  /// f(i, u) for elements first + i, u the element's share of the stream of bytes.
  template <class U, class F>
  static void each_draw(std::uint64_t start, index_t first, index_t n, F f) {
    constexpr index_t per = 8 / sizeof(U);
    std::uint64_t now = 0;
    for (index_t i = 0; i < n; ++i) {
      const index_t at = first + i, lane = at % per;
      if (lane == 0 || i == 0) now = draw(start, at / per);
      f(i, static_cast<U>(now >> (static_cast<std::uint64_t>(lane) * sizeof(U) * 8)));
    }
  }

  /// 2^e is the size of a matrix's entries; their codes have sizes of their own, which scales take back.
  static int exponent(const io::hub_tensor& t, const recipe_rule& rule);
  /// A 24-bit signed integer times a power of two.
  static float f32_of(std::uint32_t u, const recipe_rule& rule, int e);
  /// An 8-bit signed integer times a power of two.
  static float bf16_of(std::uint8_t u, const recipe_rule& rule, int e);
  /// Mostly exponent fields 4 to 7 (1/8 to 15/8); one in 64 is zero, subnormal, or of field 1.  Never NaN.
  static std::byte e4m3_of(std::uint16_t u);
  /// Row r from one draw: the experts first + j stride (mod experts), all different.
  void expert_rows(const io::hub_tensor& t, std::uint64_t start, index_t first, index_t n,
                   std::span<std::byte> out) const;

  std::uint64_t seed_;
  index_t experts_;
};

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "recipe_impl.hpp"
#endif
