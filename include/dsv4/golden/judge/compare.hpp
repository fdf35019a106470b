// SPDX-License-Identifier: MIT
#pragma once
/// One recorded tensor against what it should be, row by row: values through metrics.hpp, choices as lists.
/// Knows nothing of bundles' order or of models: verify.hpp (free) and forced.hpp feed it.
#include "../bundle/sinks.hpp"
#include "tolerance.hpp"

namespace dsv4::golden {

/// A slot as a number that does not depend on the call: a position, or `first_entry_slot` + entry.
inline constexpr index_t first_entry_slot = index_t{1} << 40;

/// The slots of one query (attention.hpp, number_slots) in call-independent numbers, empty ones left out.
inline std::vector<index_t> canonical_slots(std::span<const double> row, index_t start, index_t tokens,
                                            index_t position, index_t window) {
  std::vector<index_t> out;
  for (const double x : row) {
    const auto v = static_cast<index_t>(x);
    if (v < 0) continue;
    if (start == 0)
      out.push_back(v < tokens ? v : first_entry_slot + v - tokens);
    else
      out.push_back(v < window ? position - ((position - v) % window + window) % window
                               : first_entry_slot + v - window);
  }
  return out;
}

/// x as it is after a store in a narrower carrier.
inline double stored_as(dtype t, double x) {
  switch (t) {
    case dtype::bf16: return to_double(round_bf16(x));
    case dtype::f32: return static_cast<float>(x);
    default: return x;
  }
}
inline int carrier_width(dtype t) { return mantissa_bits(t); }

/// What is kept of a comparison in case its tensor becomes the culprit.
struct comparison_detail {
  std::vector<error_by_axis> by_axis;
  std::vector<position_error> by_position;
  std::array<index_t, 32> ulp_bins{};
  index_t first_bad = -1;
};

class tensor_comparison {
 public:
  /// `expected`, `test`: the types the two sides are stored in.  `model`: for windows and lengths of sums.
  tensor_comparison(tensor_result about, std::vector<index_t> row_shape, dtype expected, dtype test,
                    const config& model, tolerance_context context, std::vector<std::string> axes)
      : r_(std::move(about)),
        context_(context),
        axes_(std::move(axes)),
        expected_(expected),
        test_(test),
        choice_(r_.cls == tolerance_class::choice) {
    // The wider side is rounded to the narrower before they are compared; a wide site that was recorded
    // as bf16 is judged as a stored one.
    const bool narrow_test = carrier_width(test) < carrier_width(expected);
    context_.carrier = narrow_test ? test : expected;
    if (narrow_test && test == dtype::bf16 && r_.cls != tolerance_class::logits)
      r_.cls = tolerance_class::stored;
    if (const auto id = site_of(r_.site)) context_.summands = summands_of(*id, model);
    context_.layer = std::max<index_t>(0, r_.layer);
    metrics_.emplace(std::move(row_shape), mantissa_bits(context_.carrier),
                     element_tolerance_of(r_.cls, context_));
    window_ = model.sliding_window;
  }

  bool is_choice() const { return choice_; }
  const tolerance_context& context() const { return context_; }
  tensor_result& about() { return r_; }

  /// A row of values; scores that grow may differ in width: what both have is compared.
  /// `known`: what compare_logits has already found for this row, if it is a row of logits.
  void values(index_t position, std::vector<double>& a, std::vector<double>& b,
              const logits_point* known = nullptr) {
    const std::size_t n = std::min(a.size(), b.size());
    a.resize(n), b.resize(n);
    if (carrier_width(test_) > carrier_width(expected_))
      for (double& x : a) x = stored_as(expected_, x);
    if (carrier_width(expected_) > carrier_width(test_))
      for (double& x : b) x = stored_as(test_, x);
    metrics_->add(position, a, b);
    if (r_.cls == tolerance_class::logits && n > 1) {
      logits_point p = known ? *known : compare_logits(a, b, -1);
      p.position = position, p.sequence = r_.sequence, p.name = r_.name;
      points_.push_back(std::move(p));
    }
  }
  void equal_values(index_t position, std::span<const double> b) { metrics_->add_equal(position, b); }
  void masked() { metrics_->add_masked(); }

  /// A row of choices, empty ones left out.  `legal(difference)` says whether the scores allow it.
  template <class Legal>
  bool choices(index_t position, std::span<const index_t> a, std::span<const index_t> b, Legal&& legal) {
    const choice_difference d = compare_choices(a, b);
    ++r_.m.rows;
    r_.m.values += static_cast<index_t>(b.size());
    jaccard_ += d.jaccard, recall_ += d.recall;
    const double share = 1 - d.recall;
    detail_.by_position.push_back({r_.sequence, position, share, d.equal ? 0.0 : 1.0});
    if (d.equal) return false;
    ++r_.m.rows_differ;
    r_.m.different += static_cast<index_t>(std::max(d.only_expected.size(), std::size_t{1}));
    if (d.same_set) ++r_.m.rows_order_only;
    if (legal(d)) {
      ++r_.m.rows_legal;
    } else if (detail_.first_bad < 0) {
      detail_.first_bad = position;
      index_t at = 0;
      while (at < static_cast<index_t>(std::min(a.size(), b.size())) && a[usize(at)] == b[usize(at)]) ++at;
      r_.m.worst = {position, at};
      const auto shown = [&](std::span<const index_t> v) {
        if (at >= static_cast<index_t>(v.size())) return -1.0;
        const index_t x = v[usize(at)];
        return double(x >= first_entry_slot ? x - first_entry_slot : x);
      };
      r_.m.worst_test = shown(a), r_.m.worst_expected = shown(b);
    }
    return true;
  }

  /// Verdict and numbers.
  tensor_result finish() {
    if (choice_) {
      if (r_.m.rows) r_.m.jaccard = jaccard_ / double(r_.m.rows), r_.m.recall = recall_ / double(r_.m.rows);
      judge_choices(r_, context_);
      return r_;
    }
    r_.m = metrics_->result();
    const logits_summary s = summary_of(points_, r_.m.nmse_variance);
    if (r_.m.rows == 0 && r_.m.masked_rows > 0) {
      r_.v = verdict::tainted;
      r_.why = "every row follows a choice that differs within its margin";
    } else {
      judge_values(r_, context_, metrics_->largest(), points_.empty() ? nullptr : &s);
    }
    return r_;
  }
  /// After finish().
  comparison_detail detail() const {
    if (choice_) return detail_;
    comparison_detail d;
    d.by_axis = metrics_->by_axis(axes_);
    d.by_position = metrics_->by_row();
    for (position_error& p : d.by_position) p.sequence = r_.sequence;
    d.ulp_bins = metrics_->ulp_bins();
    // The first row that differs; where rounding alone makes rows differ, the first that is as bad as the rest.
    d.first_bad = metrics_->first_different();
    if (context_.policy != tolerance_policy::strict && r_.m.masks_differ == 0)
      for (const position_error& p : d.by_position)
        if (p.rel_l2 > r_.m.rel_l2 / 4) {
          d.first_bad = p.position;
          break;
        }
    return d;
  }
  /// The largest difference in every row: how far the scores of that token have moved.
  const std::vector<position_error>& rows() const { return metrics_->by_row(); }
  const std::vector<logits_point>& logits() const { return points_; }
  const std::vector<std::string>& axes() const { return axes_; }
  index_t window() const { return window_; }

 private:
  tensor_result r_;
  tolerance_context context_;
  std::vector<std::string> axes_;
  dtype expected_, test_;
  bool choice_;
  std::optional<metrics_accumulator> metrics_;
  std::vector<logits_point> points_;
  comparison_detail detail_;
  double jaccard_ = 0, recall_ = 0;
  index_t window_ = 0;
};

/// The result entry of a recording, before it is compared.
inline tensor_result result_of(const tensor_entry& t) {
  tensor_result r;
  r.name = t.name, r.scope = t.scope, r.site = t.site;
  r.layer = t.layer, r.step = t.step, r.sequence = t.sequence, r.from = t.from, r.to = t.to;
  r.cls = t.cls;
  if (t.noise) r.noise = t.noise->relL2;
  return r;
}

/// Position of a recording's first row: tokens, or entries.
inline index_t first_row(const tensor_entry& t) { return t.first_entry ? *t.first_entry : t.from; }

}  // namespace dsv4::golden
