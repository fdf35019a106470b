// SPDX-License-Identifier: MIT
#pragma once
/// Statistics of a tensor's elements, in double and in order, so that a second computation gives the same.
#include <cmath>
#include <cstring>
#include <span>

#include "../num/round.hpp"
#include "manifest.hpp"

namespace dsv4::golden {

/// min, max and rms of the finite elements; counts of the others.  Fed piece after piece.
class stats_accumulator {
 public:
  void add(dtype carrier, std::span<const std::byte> raw) {
    switch (carrier) {
      case dtype::bf16: return each<std::uint16_t>(raw, [](std::uint16_t b) { return to_double(bf16{b}); });
      case dtype::f32: return each<float>(raw, [](float v) { return double(v); });
      case dtype::f64: return each<double>(raw, [](double v) { return v; });
      case dtype::i32: return each<std::int32_t>(raw, [](std::int32_t v) { return double(v); });
      default: return each<std::uint8_t>(raw, [](std::uint8_t v) { return double(v); });
    }
  }
  void add(double v) {
    if (std::isnan(v)) {
      ++nan_;
    } else if (std::isinf(v)) {
      ++inf_;
    } else {
      min_ = finite_ == 0 ? v : std::min(min_, v);
      max_ = finite_ == 0 ? v : std::max(max_, v);
      squares_ += v * v;
      ++finite_;
    }
  }
  tensor_stats result() const {
    constexpr double most = std::numeric_limits<double>::max();  // JSON has no infinity
    const double rms = finite_ ? std::sqrt(squares_ / static_cast<double>(finite_)) : 0;
    // -0 is written as 0: texts of equal statistics are equal.
    return {min_ + 0.0, max_ + 0.0, std::min(rms, most), nan_, inf_};
  }

 private:
  template <class T, class F>
  void each(std::span<const std::byte> raw, F&& value) {
    for (std::size_t at = 0; at + sizeof(T) <= raw.size(); at += sizeof(T)) {
      T v;
      std::memcpy(&v, raw.data() + at, sizeof v);
      add(value(v));
    }
  }

  double min_ = 0, max_ = 0, squares_ = 0;
  index nan_ = 0, inf_ = 0, finite_ = 0;
};

inline tensor_stats stats_of(dtype carrier, std::span<const std::byte> raw) {
  stats_accumulator s;
  s.add(carrier, raw);
  return s.result();
}

/// Whether a recomputation confirms what a manifest says.  The sum of squares may have been formed in
/// another order by another program: 1e-9 of difference is allowed there, none elsewhere.
inline bool confirms(const tensor_stats& computed, const tensor_stats& told) {
  constexpr double sum_order = 1e-9;
  return computed.min == told.min && computed.max == told.max && computed.nan == told.nan && computed.inf == told.inf &&
         std::fabs(computed.rms - told.rms) <= sum_order * computed.rms;
}

}  // namespace dsv4::golden
