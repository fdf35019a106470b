// SPDX-License-Identifier: MIT
#pragma once
/// Forced mode: every operator of the test is judged on the test's own recorded inputs.
///
/// exec::ref runs the test's calls.  At every site it has computed what the operator should give, from inputs
/// that are the test's; that is compared with what the test recorded, and then replaced by it, so that the
/// next operator starts from the test's value again: a dump of another engine is judged without running
/// that engine, and errors do not grow.  A value that the test did not record stays as recomputed: operators
/// after it are judged from their nearest recorded ancestors, and say so.
/// The golden's own values play no part (its configuration, noise and list of tensors do).
#include "../make/calls.hpp"
#include "../make/graft.hpp"
#include "free.hpp"

namespace dsv4::golden {

/// Puts a test's choices in the place of a run's, as far as they are possible: window slots follow from the
/// position, and an entry or expert that does not exist is left out.  @returns false if one was left out
inline bool replace_choices(const tap_event& e, const tensor_entry& t, const tensor_data& test,
                            const config& c) {
  const index_t width = e.shape[1], own = t.row_elements();
  const bool slots = e.where == site::attn_topk_idxs;
  const index_t ratio = ratio_of(e.scope, c);
  const index_t entries = slots && ratio > 0 ? (e.start + e.tokens) / ratio : 0;
  const index_t offset = e.start == 0 ? e.tokens : c.sliding_window;
  bool all = true;
  for (index_t row = 0; row < e.tokens; ++row)
    for (index_t i = slots ? c.sliding_window : 0; i < std::min(width, own); ++i) {
      const auto x = static_cast<index_t>(test[row * own + i]);
      const bool possible =
          slots ? x == -1 || (0 <= x - offset && x - offset < entries) : 0 <= x && x < c.n_routed_experts;
      if (possible)
        assign(e, row * width + i, double(x));
      else
        all = false;
    }
  return all;
}

class forcing {
 public:
  static constexpr bool on = true;

  explicit forcing(verify_ledger& ledger)
      : ledger_(ledger), test_(ledger.test()), by_step_(same_calls(ledger.golden(), ledger.test())) {}

  void begin_call(index_t step) {
    step_ = step;
    recomputed_.clear();
  }
  /// Called with the event after the test's value is in place, or not found; for the hints.
  std::function<void(const tap_event&)> after;
  /// Called before, with what the operator should give.
  std::function<void(const tap_event&, const tensor_entry&)> before;

  void operator()(const tap_event& e) {
    const tensor_entry* t = test_.find(step_, e.sequence, e.name());
    if (!t || !fits(e, *t)) {
      recomputed_.insert(e.name());
    } else {
      if (before) before(e, *t);
      const tensor_data d = test_.read(*t);
      if (judging) judge(e, *t, d);
      put(e, *t, d);
    }
    if (after) after(e);
  }
  bool judging = true;

 private:
  bool fits(const tap_event& e, const tensor_entry& t) {
    const bool grows = e.where == site::attn_topk_idxs;
    bool same = static_cast<int>(t.shape.size()) == e.rank;
    for (int a = 0; same && a < e.rank - (grows ? 1 : 0); ++a) same = t.shape[usize(a)] == e.shape[usize(a)];
    const bool integer = info(e.where).kind == site_class::integer;
    const bool integer_test = t.carrier == dtype::i32 || t.carrier == dtype::u8;
    if (judging && (!same || integer != integer_test)) {
      std::string want;
      for (int a = 0; a < e.rank; ++a) want += (a ? ", " : "[") + std::to_string(e.shape[usize(a)]);
      ledger_.structure(2, verify_ledger::where(t) + ": " + std::string(name_of(t.carrier)) + " " +
                               io::shape_text(t.shape) + " in the test, the model gives " +
                               std::string(name_of(e.type)) + " " + want + "]");
    }
    return same && integer == integer_test;
  }

  /// The golden's entry for this value, for its noise and class.
  const tensor_entry* golden_of(const tensor_entry& t) const {
    if (by_step_) return ledger_.golden().find(t.step, t.sequence, t.name);
    const auto all = ledger_.golden().find_all(t.name);
    return all.empty() ? nullptr : all.front();
  }

  void judge(const tap_event& e, const tensor_entry& t, const tensor_data& d) {
    tensor_entry about = t;
    if (const tensor_entry* g = golden_of(t))
      about.noise = g->noise, about.cls = g->cls, about.margin = g->margin;
    about.cls = facts(e.where).cls;
    about.axes = axis_names(e.where);
    if (!ledger_.selected(about)) return;
    bool ancestors = false;
    for (const std::string& name : t.deps) ancestors = ancestors || recomputed_.contains(name);
    for (const std::string& name : dependencies_of(e.scope, e.where, ledger_.model()).deps)
      ancestors = ancestors || recomputed_.contains(name);
    std::vector<index_t> row_shape(e.shape.begin() + 1, e.shape.begin() + e.rank);
    tensor_comparison c(result_of(about), row_shape, e.type, t.carrier, ledger_.model(), ledger_.context(),
                        about.axes);
    const index_t rows = e.shape[0], own = e.size() / std::max<index_t>(1, rows), other = t.row_elements();
    for (index_t r = 0; r < rows; ++r) {
      const index_t row = first_row(t) + r;
      if (!ledger_.selected_row(t, row)) continue;
      a_.resize(usize(other)), b_.resize(usize(own));
      for (index_t i = 0; i < other; ++i) a_[usize(i)] = d[r * other + i];
      for (index_t i = 0; i < own; ++i) b_[usize(i)] = element(e, r * own + i);
      if (c.is_choice()) {
        const index_t window = ledger_.model().sliding_window;
        const auto x = choices_of(t, a_, row, window);
        const auto y = choices_of(t, b_, row, window);
        bool legal = false;
        const bool flipped =
            c.choices(row, x, y, [&](const choice_difference& diff) { return legal = tie(e, diff, r); });
        const auto margin = by_step_ ? margin_of(t, row) : -1.0;
        if (margin >= 0) ledger_.routing_point_of(about, row, margin, flipped, legal);
      } else {
        c.values(row, a_, b_);
      }
    }
    ledger_.add(c, about, ancestors);
  }
  double margin_of(const tensor_entry& t, index_t row) const {
    const tensor_entry* g = ledger_.golden().find(t.step, t.sequence, t.name);
    return g ? ledger_.golden_margin(*g, row)[0] : -1;
  }

  /// Whether the other choices are as good by the test's own scores, that is, equal up to rounding.
  bool tie(const tap_event& e, const choice_difference& d, index_t row) const {
    if (ledger_.result().policy == tolerance_policy::strict) return false;
    if (d.same_set) return true;
    const bool gate = e.where == site::gate_indices;
    const auto at = scores_.find({e.sequence, gate ? site::gate_biased : site::indexer_scores});
    if (at == scores_.end() ||
        (gate && e.scope.where == tap_scope::part::layer && ledger_.model().is_hash_layer(e.scope.number)))
      return false;
    if (d.only_test.size() != d.only_expected.size()) return false;
    const auto& [width, v, ulp] = at->second;
    const auto score = [&](index_t i) {
      const index_t slot = i >= first_entry_slot ? i - first_entry_slot : i;
      return 0 <= slot && slot < width ? v[usize(row * width + slot)] : std::nan("");
    };
    double least = std::numeric_limits<double>::infinity(), most = -least;
    for (const index_t i : d.only_test) least = std::min(least, score(i));
    for (const index_t i : d.only_expected) most = std::max(most, score(i));
    return most - least <= 4 * ulp * std::fabs(most);  // NaN: false
  }
  void put(const tap_event& e, const tensor_entry& t, const tensor_data& d) {
    if (info(e.where).kind == site_class::integer) {
      if (!replace_choices(e, t, d, ledger_.model()) && judging)
        ledger_.note(t.name + ": choices that do not exist were left out before going on");
    } else if (t.shape.size() == usize(e.rank)) {
      replace(e, d);
    }
    if (e.where == site::gate_biased || e.where == site::indexer_scores) {
      // Stored scores tie exactly; wide ones within the rounding of a float.
      scored& s = scores_[{e.sequence, e.where}];
      s.width = e.size() / std::max<index_t>(1, e.shape[0]);
      s.ulp = e.where == site::gate_biased && t.carrier != dtype::bf16 ? std::ldexp(1.0, -24) : 0;
      s.values.resize(usize(e.size()));
      for (index_t i = 0; i < e.size(); ++i) s.values[usize(i)] = element(e, i);
    }
  }

  struct scored {
    index_t width = 0;
    std::vector<double> values;
    double ulp = 0;
  };
  verify_ledger& ledger_;
  const bundle& test_;
  bool by_step_;
  index_t step_ = 0;
  std::set<std::string> recomputed_;
  std::map<std::pair<index_t, site>, scored> scores_;
  std::vector<double> a_, b_;
};

/// All token ids of a bundle.
inline std::vector<std::vector<std::int32_t>> all_ids(const bundle& b) {
  std::vector<std::vector<std::int32_t>> ids;
  for (index_t s = 0; s < b.sequences(); ++s) ids.push_back(b.ids(s));
  return ids;
}

/// Runs the test's calls under an observer that has begin_call(step).
template <execution E = exec::ref, class Observer>
void run_forced(const bundle& test, const config& c, const model_weights<>& weights, bool official_numerics,
                Observer& o, E e = {}) {
  const auto ids = all_ids(test);
  const auto begin = [&](const call_info& call) { o.begin_call(call.step); };
  if (official_numerics)
    run_calls<official>(c, weights, test.about().calls, ids, o, begin, e);
  else
    run_calls<float32<>>(c, weights, test.about().calls, ids, o, begin, e);
}

inline void compare_forced(verify_ledger& ledger, const model_weights<>& weights) {
  forcing f(ledger);
  run_forced(ledger.test(), ledger.model(), weights, ledger.result().numerics != "float32", f);
  // Tensors that the golden has and the test does not.
  const bool by_step = same_calls(ledger.golden(), ledger.test());
  row_locator locate(ledger.test(), by_step);
  for (const tensor_entry& g : ledger.golden().tensors()) {
    if (g.is_margin()) continue;
    if (!ledger.selected(g))
      ++ledger.result().skipped;
    else if (g.rows() > 0 && !locate.find(g, first_row(g)))
      ledger.missing(g);
  }
}

}  // namespace dsv4::golden
