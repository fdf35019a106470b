// SPDX-License-Identifier: MIT
#pragma once
/// Which known mistake explains the culprit: the test's own inputs are run once more, the culprit operator is
/// computed with each mistake that has a place there, and the one that reproduces the test's tensor is named.
#include "../mistake/mistaken.hpp"
#include "forced.hpp"

namespace dsv4::golden {

/// Tries the mistakes at one name, over the calls in which it is wrong (a port may be wrong in its decode alone).
template <numerics_policy P>
class hint_finder {
 public:
  static constexpr bool on = true;
  hint_finder(verify_ledger& ledger, const model_weights<>& weights,
              const std::vector<std::vector<std::int32_t>>& ids, const tensor_entry& culprit)
      : name_(culprit.name),
        scope_(culprit.parsed()->scope),
        memory_(ledger.model(),
                [this](const tap_scope& s) { return s.where == scope_.where && s.number == scope_.number; }),
        wrong_(ledger.model(), weights, memory_, ids),
        forcing_(ledger),
        window_(ledger.model().sliding_window) {
    for (const tensor_result& t : ledger.result().tensors)
      if (t.name == name_ && t.v == verdict::fail) wrong_calls_.emplace(t.step, t.sequence);
    // In free mode over other calls the results have the golden's steps: then all of the test's calls count.
    if (!same_calls(ledger.golden(), ledger.test()) && ledger.result().mode == verify_mode::free_running)
      wrong_calls_.clear();
    forcing_.judging = false;
    forcing_.before = [this, &ledger](const tap_event& e, const tensor_entry& t) {
      if (e.name() == name_ && (wrong_calls_.empty() || wrong_calls_.contains({t.step, t.sequence})))
        attempt(e, t, ledger.test().read(t));
    };
    forcing_.after = [this](const tap_event& e) { memory_.remember(e); };
  }
  void begin_call(index_t step) { forcing_.begin_call(step); }
  void operator()(const tap_event& e) { forcing_(e); }

  /// The mistakes that come nearer to the test than the right operator does; those that explain it stand first.
  std::vector<hint_result> result(const tensor_result& culprit) const {
    std::vector<hint_result> out;
    const bool choice = culprit.cls == tolerance_class::choice;
    for (std::size_t i = 0; i < tries_.size(); ++i) {
      const distance_sum& s = tries_[i];
      if (s.values == 0) continue;
      hint_result h;
      h.mistake = mistakes[i].name, h.says = mistakes[i].says;
      h.rel_l2 = s.relative();
      h.mismatch = double(s.different) / double(s.values);
      const double right = right_.squared_norm > 0 ? right_.relative() : 1;
      // An engine with this mistake is as near to it as a right engine is to the right operator.
      constexpr double as_rounding = 5e-3, much_nearer = 0.1, few = 0.01;
      h.explains = choice ? h.mismatch <= few && h.mismatch < right_.share_different() * much_nearer
                          : h.mismatch == 0 || (h.rel_l2 <= as_rounding && h.rel_l2 < much_nearer * right);
      if (h.explains || (choice ? h.mismatch < right_.share_different() / 2 : h.rel_l2 < right / 2))
        out.push_back(std::move(h));
    }
    std::stable_sort(out.begin(), out.end(), [](const hint_result& a, const hint_result& b) {
      return std::tuple(!a.explains, a.rel_l2, a.mismatch) < std::tuple(!b.explains, b.rel_l2, b.mismatch);
    });
    return out;
  }

 private:
  /// How far the test is from one way of computing the culprit, summed over its calls.
  struct distance_sum {
    double squared_error = 0, squared_norm = 0;
    index_t values = 0, different = 0;
    double share_different() const { return values ? double(different) / double(values) : 0; }
    /// ||error|| / ||expected||; an error where only zeros are expected counts as 1.
    double relative() const {
      if (squared_norm > 0) return std::sqrt(squared_error / squared_norm);
      return squared_error > 0 ? 1 : 0;
    }
  };

  void attempt(const tap_event& e, const tensor_entry& t, const tensor_data& d) {
    // Every row counts, also those that the right operator gets right: a mistake has to explain them as well.
    add(right_, e, t, d, [&](index_t i) { return element(e, i); });
    for (std::size_t m = 0; m < tries_.size(); ++m) {
      const maybe_values v = wrong_(static_cast<mistake>(m), e);
      if (v && static_cast<index_t>(v->size()) == e.size())
        add(tries_[m], e, t, d, [&](index_t i) { return (*v)[usize(i)]; });
      else if (tries_[m].values)
        add(tries_[m], e, t, d, [&](index_t i) {
          return element(e, i);
        });  // the mistake has no place in this call, so the right operator stands for it
    }
  }
  template <class F>
  void add(distance_sum& s, const tap_event& e, const tensor_entry& t, const tensor_data& d, F&& expected) {
    const index_t rows = std::max<index_t>(1, e.shape[0]), own = e.size() / rows, other = t.row_elements();
    for (index_t r = 0; r < rows; ++r) {
      if (t.cls == tolerance_class::choice || e.type == dtype::i32) {
        std::vector<double> x, y;
        for (index_t i = 0; i < other; ++i) x.push_back(d[r * other + i]);
        for (index_t i = 0; i < own; ++i) y.push_back(expected(r * own + i));
        ++s.values;
        if (choices_of(t, x, first_row(t) + r, window_) != choices_of(t, y, first_row(t) + r, window_))
          ++s.different, s.squared_error += 1;
        s.squared_norm += 1;
        continue;
      }
      for (index_t i = 0; i < std::min(own, other); ++i) {
        const double a = stored_as(e.type, d[r * other + i]), b = stored_as(t.carrier, expected(r * own + i));
        if (!std::isfinite(a) || !std::isfinite(b)) continue;
        s.squared_error += (a - b) * (a - b), s.squared_norm += b * b;
        ++s.values;
        if (a != b) ++s.different;
      }
    }
  }

  std::string name_;
  tap_scope scope_;
  operator_memory memory_;
  mistaken<P> wrong_;
  forcing forcing_;
  index_t window_;
  std::set<std::pair<index_t, index_t>> wrong_calls_;
  distance_sum right_;
  std::array<distance_sum, usize(mistake::count)> tries_{};
};

/// Fills culprit.hints.  Needs the weights; nothing happens for names that are not the model's.
inline void find_hints(verify_ledger& ledger, const model_weights<>& weights) {
  verify_result& r = ledger.result();
  const tensor_result& culprit = r.tensors[r.culprit.at];
  const tensor_entry* t = nullptr;
  for (const tensor_entry* each : ledger.test().find_all(culprit.name)) t = each;
  if (!t || !t->parsed()) return;
  const auto ids = all_ids(ledger.test());
  const auto run = [&]<class P>(P) {
    hint_finder<P> f(ledger, weights, ids, *t);
    run_forced(ledger.test(), ledger.model(), weights, P::quantised, f);
    r.culprit.hints = f.result(culprit);
  };
  if (r.numerics == "float32")
    run(float32<>{});
  else
    run(official{});
}

}  // namespace dsv4::golden
