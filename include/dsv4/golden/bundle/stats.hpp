// SPDX-License-Identifier: MIT
#pragma once
/// Statistics of a tensor's elements, in double and in a fixed order, so that a second computation gives the same.
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "../../num/round.hpp"
#include "manifest.hpp"

namespace dsv4::golden {

/// min, max and rms of the finite elements; counts of the others.  Fed piece after piece, in any pieces:
/// element i belongs to lane i mod 8, lanes are joined at the end, so the result depends on the elements
/// alone, and eight of them are handled at a time.
class stats_accumulator {
 public:
  void add(dtype carrier, std::span<const std::byte> raw) {
    switch (carrier) {
      case dtype::bf16: return pieces<std::uint16_t>(raw, [](std::uint16_t b) { return to_double(bf16{b}); });
      case dtype::f32: return pieces<float>(raw, [](float v) { return double(v); });
      case dtype::f64: return pieces<double>(raw, [](double v) { return v; });
      case dtype::i32: return pieces<std::int32_t>(raw, [](std::int32_t v) { return double(v); });
      default: return pieces<std::uint8_t>(raw, [](std::uint8_t v) { return double(v); });
    }
  }
  void add(double v) {
    const auto lane = usize(count_++ % lanes);
    if (std::isnan(v)) {
      ++nan_;
    } else if (std::isinf(v)) {
      ++inf_;
    } else {
      min_[lane] = std::min(min_[lane], v);
      max_[lane] = std::max(max_[lane], v);
      squares_[lane] += v * v;
    }
  }
  tensor_stats result() const {
    constexpr double most = std::numeric_limits<double>::max();  // JSON has no infinity
    const index_t finite = count_ - nan_ - inf_;
    if (finite == 0) return {0, 0, 0, nan_, inf_};
    double low = infinity, high = -infinity, squares = 0;
    for (std::size_t l = 0; l < lanes; ++l) {
      low = std::min(low, min_[l]), high = std::max(high, max_[l]);
      squares += squares_[l];
    }
    // -0 is written as 0: texts of equal statistics are equal.
    return {low + 0.0, high + 0.0, std::min(std::sqrt(squares / static_cast<double>(finite)), most), nan_,
            inf_};
  }

 private:
  static constexpr std::size_t lanes = 8;
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  template <class T, class F>
  void pieces(std::span<const std::byte> raw, F&& value) {
    constexpr std::size_t most = 512;
    std::array<T, most> stored;
    std::array<double, most> v;
    for (std::size_t at = 0, left = raw.size() / sizeof(T); left > 0;) {
      const std::size_t n = std::min(left, most);
      std::memcpy(stored.data(), raw.data() + at, n * sizeof(T));
      bool finite = true;
      for (std::size_t i = 0; i < n; ++i) {
        v[i] = value(stored[i]);
        finite &= v[i] - v[i] == 0;
      }
      if (finite && n % lanes == 0 && count_ % static_cast<index_t>(lanes) == 0) {
        for (std::size_t i = 0; i < n; i += lanes)
          for (std::size_t l = 0; l < lanes; ++l) {
            const double x = v[i + l];
            min_[l] = x < min_[l] ? x : min_[l];
            max_[l] = x > max_[l] ? x : max_[l];
            squares_[l] += x * x;
          }
        count_ += static_cast<index_t>(n);
      } else {
        for (std::size_t i = 0; i < n; ++i) add(v[i]);
      }
      at += n * sizeof(T), left -= n;
    }
  }

  static constexpr std::array<double, lanes> all(double x) { return {x, x, x, x, x, x, x, x}; }
  std::array<double, lanes> min_ = all(infinity), max_ = all(-infinity), squares_ = all(0);
  index_t nan_ = 0, inf_ = 0, count_ = 0;
};

inline tensor_stats stats_of(dtype carrier, std::span<const std::byte> raw) {
  stats_accumulator s;
  s.add(carrier, raw);
  return s.result();
}

/// Whether a recomputation confirms the statistics that a manifest has.  The sum of squares may have been formed in
/// another order by another program: 1e-9 of difference is allowed there, none elsewhere.
inline bool confirms(const tensor_stats& computed, const tensor_stats& recorded) {
  constexpr double sum_order = 1e-9;
  return computed.min == recorded.min && computed.max == recorded.max && computed.nan == recorded.nan &&
         computed.inf == recorded.inf && std::fabs(computed.rms - recorded.rms) <= sum_order * computed.rms;
}

}  // namespace dsv4::golden
