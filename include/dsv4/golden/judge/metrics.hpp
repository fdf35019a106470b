// SPDX-License-Identifier: MIT
#pragma once
/// Errors of a tensor, row by row: all metrics of docs/verification.md in one pass, in double, in the
/// order of the elements, in memory of one row.
///
///   metrics_accumulator m(bits_of_mantissa, tolerance);
///   for each row: m.add(position, test_row, expected_row);
///   const error_metrics e = m.result();
/// Rows are tokens (or compressed entries).  A scaled ulp is |a-b| over the ulp of the stored type at
/// max(|b|, rms of the row / 16), so that cancellation near zero does not explode.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>

#include "result.hpp"

namespace dsv4::golden {

/// An element may differ by absolute * rms(row of b) + relative * |b|, or by the larger of these two terms.
struct element_tolerance {
  double absolute = 0, relative = 0;
  bool sum = true;
  double at(double b, double rms) const {
    const double x = absolute * rms, y = relative * std::fabs(b);
    return sum ? x + y : std::max(x, y);
  }
};

/// Bits of a type's mantissa, the hidden one included: they say how large an ulp is.
constexpr int mantissa_bits(dtype t) {
  switch (t) {
    case dtype::bf16: return 8;
    case dtype::f16: return 11;
    case dtype::f32: return 24;
    default: return 53;
  }
}

class metrics_accumulator {
 public:
  /// `row_shape`: the axes of a row; `mantissa`: of the coarser of the two types compared.
  metrics_accumulator(std::vector<index_t> row_shape, int mantissa, element_tolerance tolerance)
      : shape_(std::move(row_shape)), mantissa_(mantissa), tolerance_(tolerance) {
    index_t width = 1;
    for (const index_t n : shape_) width *= n;
    column_error_.assign(usize(width), 0.0);
  }

  /// One row at a position (or entry).  Rows shorter than the shape are allowed (scores that grow).
  void add(index_t position, std::span<const double> a, std::span<const double> b) {
    ++m_.rows;
    double energy = 0;
    index_t finite = 0;
    for (const double x : b)
      if (std::isfinite(x)) energy += x * x, ++finite;
    const double rms = finite ? std::sqrt(energy / double(finite)) : 0;
    m_.values += static_cast<index_t>(a.size());
    double row_dd = 0, row_bb = 0, row_max = 0;
    for (std::size_t i = 0;; ++i) {
      i = add_stretch(a, b, i, row_bb);
      if (i == a.size()) break;
      const double x = a[i], y = b[i];
      if (!std::isfinite(x) || !std::isfinite(y)) {
        anomaly(position, i, x, y);
        continue;
      }
      const double d = std::fabs(x - y);
      aa_ += x * x, bb_ += y * y, ab_ += x * y, dd_ += d * d, sum_b_ += y, absolute_ += d;
      row_dd += d * d, row_bb += y * y;
      row_max = std::max(row_max, d);
      if (i < column_error_.size()) column_error_[i] += d * d;
      largest_ = std::max(largest_, std::fabs(y));
      double ulps = 0;
      if (d > 0) {
        const double at = std::max({std::fabs(y), rms / 16, std::numeric_limits<double>::min()});
        ulps = d / std::ldexp(1.0, std::ilogb(at) + 1 - mantissa_);
      }
      count_ulps(ulps);
      ++m_.different;
      if (first_different_ < 0) first_different_ = position;
      if (std::fabs(x) > std::fabs(y)) ++up_;
      if (std::fabs(x) < std::fabs(y)) ++down_;
      if (d > tolerance_.at(y, rms)) {
        ++m_.beyond;
        if (first_beyond_ < 0) first_beyond_ = position;
      }
      if (d > m_.max_abs || (d > 0 && m_.worst.empty())) keep_worst(position, i, x, y, d);
    }
    by_row_.push_back(
        {0, position, row_bb > 0 ? std::sqrt(row_dd / row_bb) : (row_dd > 0 ? 1.0 : 0.0), row_max});
    row_error_.push_back(row_dd);
  }
  /// A row that has the same bits on both sides: only its sums are needed.
  void add_equal(index_t position, std::span<const double> b) {
    ++m_.rows;
    m_.values += static_cast<index_t>(b.size());
    fine_[0] += static_cast<index_t>(b.size());
    double energy = 0, sum = 0, largest = 0;
    for (const double y : b) energy += y * y, sum += y, largest = std::max(largest, std::fabs(y));
    if (!std::isfinite(energy)) {
      energy = sum = largest = 0;
      for (const double y : b) {
        if (y != y || std::isinf(y)) {
          m_.nan_test += y != y, m_.nan_expected += y != y, m_.inf_test += std::isinf(y),
              m_.inf_expected += std::isinf(y);
        } else {
          energy += y * y, sum += y, largest = std::max(largest, std::fabs(y));
        }
      }
    }
    aa_ += energy, bb_ += energy, ab_ += energy, sum_b_ += sum;
    largest_ = std::max(largest_, largest);
    by_row_.push_back({0, position, 0, 0});
    row_error_.push_back(0);
  }
  /// Counts a row that follows a legal flip, without measuring it.
  void add_masked() { ++m_.masked_rows; }

  error_metrics result() const {
    error_metrics m = m_;
    const double n = std::max<double>(1, double(m.values));
    m.mean_abs = absolute_ / n;
    m.rel_l2 = bb_ > 0 ? std::sqrt(dd_ / bb_) : dd_ > 0 ? 1 : 0;
    // 1 - 2ab/(aa+bb) loses its digits to cancellation: dd/(aa+bb) is the same number.
    m.calc_diff = aa_ + bb_ > 0 ? dd_ / (aa_ + bb_) : 0;
    if (const double norms = std::sqrt(aa_ * bb_); norms > 0) {
      const double difference = std::sqrt(aa_) - std::sqrt(bb_);
      m.one_minus_cos = std::max(0.0, (dd_ - difference * difference) / (2 * norms));
    } else {
      m.one_minus_cos = dd_ > 0 ? 1 : 0;
    }
    m.nmse_energy = bb_ > 0 ? dd_ / bb_ : dd_ > 0 ? 1 : 0;
    const double variance = bb_ / n - (sum_b_ / n) * (sum_b_ / n);
    m.nmse_variance = variance > 0 ? dd_ / n / variance : dd_ > 0 ? 1 : 0;
    m.norm_ratio = bb_ > 0 ? std::sqrt(aa_ / bb_) : aa_ > 0 ? std::numeric_limits<double>::infinity() : 1;
    m.ulp_p50 = quantile(0.5), m.ulp_p99 = quantile(0.99);
    if (const double moved = double(up_ + down_); moved > 0) {
      m.bias = double(up_ - down_) / moved;
      m.bias_sigma = double(up_ - down_) / std::sqrt(moved);
    }
    return m;
  }

  double largest() const { return largest_; }
  /// Position of the first element that differs, and that is outside the tolerance; -1: none.
  index_t first_different() const { return first_different_; }
  index_t first_beyond() const { return first_beyond_; }
  const std::vector<position_error>& by_row() const { return by_row_; }

  /// Shares of the squared error by coordinate: positions first, then the row's axes.
  std::vector<error_by_axis> by_axis(const std::vector<std::string>& axes) const {
    std::vector<error_by_axis> out;
    if (dd_ == 0) return out;
    error_by_axis rows{axes.empty() ? "row" : axes[0], by_row_.empty() ? 0 : by_row_[0].position, {}};
    for (const double d : row_error_) rows.share.push_back(d / dd_);
    out.push_back(std::move(rows));
    index_t inner = static_cast<index_t>(column_error_.size());
    for (std::size_t a = 0; a < shape_.size(); ++a) {
      inner /= std::max<index_t>(1, shape_[a]);
      error_by_axis one{a + 1 < axes.size() ? axes[a + 1] : "axis " + std::to_string(a + 1), 0,
                        std::vector<double>(usize(shape_[a]), 0.0)};
      for (std::size_t i = 0; i < column_error_.size(); ++i)
        one.share[usize(static_cast<index_t>(i) / inner % shape_[a])] += column_error_[i] / dd_;
      out.push_back(std::move(one));
    }
    return out;
  }
  /// Bin 0: no error; bin i: scaled ulps in [2^(i-4), 2^(i-3)), the ends open.
  std::array<index_t, 32> ulp_bins() const {
    std::array<index_t, 32> bins{};
    bins[0] = fine_[0];
    for (std::size_t f = 1; f < fine_.size(); ++f)
      bins[usize(std::clamp<index_t>(static_cast<index_t>(f - 1) / per_octave - 17 + 1, 1, 31))] += fine_[f];
    return bins;
  }

 private:
  static constexpr index_t per_octave = 8, lowest_octave = -20, octaves = 84;

  /// Elements from i on that are finite and equal, most of those of a right test; returns the first that is not.
  /// Equal are bits, not values: -0 is not 0.
  std::size_t add_stretch(std::span<const double> a, std::span<const double> b, std::size_t i,
                          double& row_bb) {
    const std::size_t first = i;
    // Local copies of the sums, so that they stay in registers.
    double aa = aa_, bb = bb_, ab = ab_, sum = sum_b_, row = row_bb, largest = largest_;
    for (; i < a.size(); ++i) {
      const double y = b[i], size = std::fabs(y);
      if (std::bit_cast<std::uint64_t>(a[i]) != std::bit_cast<std::uint64_t>(y) ||
          !(size <= std::numeric_limits<double>::max()))
        break;
      const double e = y * y;
      aa += e, bb += e, ab += e, sum += y, row += e;
      largest = std::max(largest, size);
    }
    aa_ = aa, bb_ = bb, ab_ = ab, sum_b_ = sum, row_bb = row, largest_ = largest;
    fine_[0] += static_cast<index_t>(i - first);
    return i;
  }
  void count_ulps(double ulps) {
    m_.ulp_max = std::max(m_.ulp_max, ulps);
    if (ulps == 0) {
      ++fine_[0];
      return;
    }
    const auto bin =
        static_cast<index_t>(std::floor((std::log2(ulps) - double(lowest_octave)) * double(per_octave)));
    ++fine_[usize(1 + std::clamp<index_t>(bin, 0, per_octave * octaves - 1))];
  }
  /// Upper edge of the bin that holds the quantile; never above the largest.
  double quantile(double q) const {
    index_t total = 0, seen = 0;
    for (const index_t n : fine_) total += n;
    const auto wanted = static_cast<index_t>(std::ceil(q * double(total)));
    for (std::size_t f = 0; f < fine_.size(); ++f)
      if (seen += fine_[f]; seen >= wanted)
        return f == 0
                   ? 0
                   : std::min(m_.ulp_max, std::exp2(double(f) / double(per_octave) + double(lowest_octave)));
    return 0;
  }
  void anomaly(index_t position, std::size_t i, double x, double y) {
    m_.nan_test += x != x, m_.inf_test += std::isinf(x);
    m_.nan_expected += y != y, m_.inf_expected += std::isinf(y);
    const bool same = (x != x && y != y) || x == y;
    if (same) return;
    if (m_.masks_differ++ == 0) keep_worst(position, i, x, y, std::numeric_limits<double>::infinity());
    if (first_different_ < 0) first_different_ = position;
    ++m_.different, ++m_.beyond;
  }
  void keep_worst(index_t position, std::size_t i, double x, double y, double d) {
    m_.max_abs = d, m_.worst_test = x, m_.worst_expected = y;
    m_.worst.assign(shape_.size() + 1, 0);
    m_.worst[0] = position;
    index_t at = static_cast<index_t>(i);
    for (std::size_t a = shape_.size(); a-- > 0;) m_.worst[a + 1] = at % shape_[a], at /= shape_[a];
  }

  std::vector<index_t> shape_;
  int mantissa_;
  element_tolerance tolerance_;
  error_metrics m_;
  // Sums over the elements of a^2, b^2, a b, (a - b)^2, b and |a - b|; and the largest |b|.
  double aa_ = 0, bb_ = 0, ab_ = 0, dd_ = 0, sum_b_ = 0, absolute_ = 0, largest_ = 0;
  index_t up_ = 0, down_ = 0, first_different_ = -1, first_beyond_ = -1;
  std::vector<double> column_error_, row_error_;
  std::vector<position_error> by_row_;
  std::array<index_t, usize(1 + per_octave * octaves)> fine_{};
};

/// One row of logits: test a, golden b; `next` is the token that follows in the input, or -1.
inline logits_point compare_logits(std::span<const double> a, std::span<const double> b, index_t next) {
  logits_point p;
  const std::size_t n = b.size();
  std::size_t ta = 0, tb = 0;
  for (std::size_t i = 1; i < n; ++i) {
    if (a[i] > a[ta]) ta = i;
    if (b[i] > b[tb]) tb = i;
  }
  double second = -std::numeric_limits<double>::infinity(), sa = 0, sb = 0;
  for (std::size_t i = 0; i < n; ++i)
    if (i != tb) second = std::max(second, b[i]);
  p.golden_margin = b[tb] - second;
  if (std::equal(a.begin(), a.end(), b.begin(), b.end())) return p;
  for (std::size_t i = 0; i < n; ++i) {
    sa += std::exp(a[i] - a[ta]), sb += std::exp(b[i] - b[tb]);
  }
  const double za = a[ta] + std::log(sa), zb = b[tb] + std::log(sb);
  for (std::size_t i = 0; i < n; ++i) {
    const double la = a[i] - za, lb = b[i] - zb, pa = std::exp(la), pb = std::exp(lb), pm = (pa + pb) / 2;
    if (pb > 0) p.kl += pb * (lb - la);
    if (pa > 0) p.reverse_kl += pa * (la - lb);
    if (pm > 0) {
      const double lm = std::log(pm);
      p.js += (pb > 0 ? pb * (lb - lm) : 0) / 2 + (pa > 0 ? pa * (la - lm) : 0) / 2;
    }
  }
  p.top1_equal = ta == tb;
  if (0 <= next && next < static_cast<index_t>(n)) {
    const auto t = usize(next);
    p.delta_nll = (zb - b[t]) * -1 + (za - a[t]);
    p.delta_p = std::exp(a[t] - za) - std::exp(b[t] - zb);
  }
  return p;
}

inline logits_summary summary_of(const std::vector<logits_point>& points, double nmse) {
  logits_summary s;
  s.rows = static_cast<index_t>(points.size());
  s.nmse = nmse;
  if (points.empty()) return s;
  std::vector<double> kl;
  index_t equal = 0, sure = 0, sure_equal = 0;
  double p2 = 0;
  constexpr double sure_margin = 0.1;
  for (const logits_point& p : points) {
    kl.push_back(p.kl);
    if (p.kl > s.kl_max || s.kl_max_position < 0) s.kl_max = p.kl, s.kl_max_position = p.position;
    s.kl_mean += p.kl, s.reverse_kl_mean += p.reverse_kl, s.js_mean += p.js, s.delta_nll_mean += p.delta_nll;
    p2 += p.delta_p * p.delta_p;
    equal += p.top1_equal;
    if (p.golden_margin > sure_margin) ++sure, sure_equal += p.top1_equal;
  }
  const double n = double(points.size());
  s.kl_mean /= n, s.reverse_kl_mean /= n, s.js_mean /= n, s.delta_nll_mean /= n;
  s.delta_p_rms = std::sqrt(p2 / n);
  s.top1 = double(equal) / n;
  s.top1_sure = sure ? double(sure_equal) / double(sure) : 1;
  std::sort(kl.begin(), kl.end());
  constexpr double p999 = 0.999;
  s.kl_p999 = kl[static_cast<std::size_t>(std::ceil(p999 * n)) - 1];
  return s;
}

/// Compares two lists of choices, from which empty slots have been left out.
struct choice_difference {
  bool equal = true, same_set = true;
  double jaccard = 1, recall = 1;
  std::vector<index_t> only_test, only_expected;
};
inline choice_difference compare_choices(std::span<const index_t> a, std::span<const index_t> b) {
  choice_difference d;
  d.equal = std::equal(a.begin(), a.end(), b.begin(), b.end());
  if (d.equal) return d;
  std::vector<index_t> x(a.begin(), a.end()), y(b.begin(), b.end());
  std::sort(x.begin(), x.end()), std::sort(y.begin(), y.end());
  std::set_difference(x.begin(), x.end(), y.begin(), y.end(), std::back_inserter(d.only_test));
  std::set_difference(y.begin(), y.end(), x.begin(), x.end(), std::back_inserter(d.only_expected));
  d.same_set = d.only_test.empty() && d.only_expected.empty();
  const double common = double(y.size() - d.only_expected.size()), all = double(x.size() + y.size()) - common;
  d.jaccard = all > 0 ? common / all : 1;
  d.recall = y.empty() ? 1 : common / double(y.size());
  return d;
}

}  // namespace dsv4::golden
