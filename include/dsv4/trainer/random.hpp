// SPDX-License-Identifier: MIT
#pragma once
/// Random numbers by counter: draw i of stream s under a seed is a function of (seed, s, i) alone, so that the
/// whole state of a generator is three integers and any draw can be made again.
/// The mixing function is splitmix64 (Steele, Lea, Flood 2014), as in golden/make/recipe.hpp
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/view.hpp"

namespace dsv4::trainer {

class counter_random {
 public:
  counter_random(std::uint64_t seed, std::uint64_t stream) : start_(mix(mix(seed + golden) ^ stream)) {}
  /// A stream with a name, e.g. that of a parameter.
  counter_random(std::uint64_t seed, std::string_view name) : counter_random(seed, fnv1a(name)) {}

  std::uint64_t bits(index_t i) const { return mix(start_ + (static_cast<std::uint64_t>(i) + 1) * golden); }
  /// In [0, 1): 53 bits.
  double unit(index_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1p-53; }
  /// In [0, n); its bias of n / 2^64 is far below anything seen here.
  index_t below(index_t i, index_t n) const {
    __extension__ using wide = unsigned __int128;  // the product of two 64-bit numbers
    return static_cast<index_t>((static_cast<wide>(bits(i)) * static_cast<std::uint64_t>(n)) >> 64);
  }
  /// Normal with deviation 1 (Box and Muller), one pair of draws each.
  double normal(index_t i) const {
    const double u = 1 - unit(2 * i), angle = 2 * std::numbers::pi * unit(2 * i + 1);  // u in (0, 1]
    return std::sqrt(-2 * std::log(u)) * std::cos(angle);
  }

  static constexpr std::uint64_t fnv1a(std::string_view s, std::uint64_t h = 0xCBF29CE484222325u) {
    for (const char c : s) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
    return h;
  }

 private:
  static constexpr std::uint64_t golden = 0x9E3779B97F4A7C15u;
  static constexpr std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  std::uint64_t start_;
};

/// 0 .. n-1 in random order (Fisher and Yates).
inline std::vector<index_t> shuffled(index_t n, const counter_random& r) {
  std::vector<index_t> order(usize(n));
  for (index_t i = 0; i < n; ++i) order[usize(i)] = i;
  for (index_t i = n - 1; i > 0; --i) std::swap(order[usize(i)], order[usize(r.below(i, i + 1))]);
  return order;
}

}  // namespace dsv4::trainer
