// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of ledger.hpp.
#include "../../core/config_macros.hpp"
#include "ledger.hpp"

namespace dsv4::golden {

DSV4_INLINE verify_ledger::verify_ledger(const bundle& golden, const bundle& test,
                                         const verify_options& options, verify_result& result)
    : golden_(golden), test_(test), options_(options), r_(result) {
  if (!options.only.empty()) only_.emplace(options.only, std::regex::ECMAScript);
  allow_skip_.emplace(options.allow_skip, std::regex::ECMAScript);
}

DSV4_INLINE tolerance_context verify_ledger::context() const {
  tolerance_context c;
  c.policy = r_.policy, c.mode = r_.mode, c.k_noise = r_.k_noise;
  c.official = r_.numerics != "float32";
  return c;
}

DSV4_INLINE bool verify_ledger::selected(const tensor_entry& t) const {
  if (t.is_margin()) return false;
  if (only_ && !std::regex_search(t.name, *only_)) return false;
  if (t.layer >= 0 ? !options_.layers.has(t.layer) : options_.layers.to != index_range{}.to) return false;
  return t.to > options_.positions.from && t.from < options_.positions.to;
}

DSV4_INLINE index_t verify_ledger::position_of(const tensor_entry& t, index_t row) const {
  if (!t.first_entry) return row;
  const auto parsed = t.parsed();
  return parsed ? (row + 1) * std::max<index_t>(1, ratio_of(parsed->scope, model())) - 1 : row;
}

DSV4_INLINE void verify_ledger::missing(const tensor_entry& t) {
  if (options_.absent.contains(t.name) || std::regex_search(t.name, *allow_skip_)) {
    ++r_.skipped;
    return;
  }
  tensor_result m = result_of(t);
  m.v = verdict::missing;
  m.why = "the golden has it, the test does not";
  push(std::move(m));
  if (missing_names_.insert(t.name).second && missing_names_.size() <= 3)
    structure(2, "missing in the test: " + where(t) + (missing_names_.size() == 3 ? ", and more" : ""));
}

DSV4_INLINE void verify_ledger::structure(int code, std::string what) {
  constexpr std::size_t most = 50;
  if (r_.structure.size() < most) r_.structure.push_back({code, std::move(what)});
}

DSV4_INLINE void verify_ledger::note(std::string text) {
  if (std::find(r_.notes.begin(), r_.notes.end(), text) == r_.notes.end())
    r_.notes.push_back(std::move(text));
}

DSV4_INLINE void verify_ledger::add(tensor_comparison& c, const tensor_entry& t, bool from_ancestors) {
  tensor_result one = c.finish();
  one.from_ancestors = from_ancestors;
  r_.bytes += t.bytes();
  if (t.cls == tolerance_class::choice) routing(c, t);
  if (is_scores(t)) {
    auto& moved = score_error_[{t.sequence, t.name}];
    moved.clear();
    for (const position_error& p : c.rows()) moved[p.position] = p.max_abs;
  }
  const bool fails = one.v == verdict::fail;
  if (fails && !r_.culprit.found) {
    r_.culprit.found = true;
    r_.culprit.at = r_.tensors.size();
    r_.culprit.sequence = t.sequence;
    r_.culprit.axes = t.axes;
    culprit_name_ = t.name;
    dependencies(t);
  }
  if (r_.culprit.found && t.name == culprit_name_) detail(c.detail(), fails);
  push(std::move(one));
}

DSV4_INLINE void verify_ledger::add_logits(const tensor_entry& of_test, logits_point p) {
  logits_at_[{of_test.seq, p.position}] = r_.logits.size();
  r_.logits.push_back(std::move(p));
}

DSV4_INLINE const logits_point* verify_ledger::known_logits(const tensor_entry& of_test, index_t row) const {
  const auto at = logits_at_.find({of_test.seq, row});
  return at == logits_at_.end() ? nullptr : &r_.logits[at->second];
}

DSV4_INLINE bool verify_ledger::tainted(const tensor_entry& t, index_t row) const {
  const auto at = flips_.find(t.sequence);
  if (at == flips_.end()) return false;
  const index_t layer = layer_number(t), p = position_of(t, row);
  for (const auto& [l, positions] : at->second) {
    if (l < layer && *positions.begin() <= p) return true;
    if (l == layer && positions.contains(p)) return true;
  }
  return false;
}

DSV4_INLINE double verify_ledger::score_error(const tensor_entry& choice, index_t position) const {
  const auto at = score_error_.find({choice.sequence, scores_name(choice)});
  if (at == score_error_.end()) return -1;
  const auto p = at->second.find(position);
  return p == at->second.end() ? -1 : p->second;
}

DSV4_INLINE std::array<double, 3> verify_ledger::golden_margin(const tensor_entry& g, index_t row) const {
  std::array<double, 3> m{-1, -1, -1};
  if (g.margin.empty()) return m;
  const tensor_entry* t = golden_.find(g.step, g.sequence, g.margin);
  if (!t || t->rows() != g.rows()) return m;
  const tensor_data d = golden_.read(*t);
  const index_t width = t->row_elements();
  for (index_t i = 0; i < std::min<index_t>(3, width); ++i) m[usize(i)] = d[(row - first_row(g)) * width + i];
  return m;
}

DSV4_INLINE void verify_ledger::routing_point_of(const tensor_entry& g, index_t position, double margin,
                                                 bool flipped, bool legal) {
  pending_.push_back(
      {g.name, g.sequence, position, margin, std::max(0.0, score_error(g, position)), flipped, legal});
}

DSV4_INLINE index_t verify_ledger::layer_number(const tensor_entry& t) const {
  if (t.scope.starts_with("mtp.")) return model().num_hidden_layers + t.layer;
  return t.layer < 0 ? model().num_hidden_layers : t.layer;
}

DSV4_INLINE void verify_ledger::push(tensor_result r) {
  ++r_.counts[usize(r.v)];
  r_.tensors.push_back(std::move(r));
}

DSV4_INLINE void verify_ledger::routing(tensor_comparison&, const tensor_entry&) {
  constexpr std::size_t most = 100000;
  for (routing_point& p : pending_)
    if (r_.routing.size() < most) r_.routing.push_back(std::move(p));
  pending_.clear();
}

DSV4_INLINE void verify_ledger::dependencies(const tensor_entry& t) {
  for (const auto* list : {&t.deps, &t.state})
    for (const std::string& d : *list) {
      const bool there = !test_.find_all(d).empty();
      auto& to = there ? r_.culprit.passing_deps : r_.culprit.missing_deps;
      if (std::find(to.begin(), to.end(), d) == to.end()) to.push_back(d);
    }
}

DSV4_INLINE void verify_ledger::detail(comparison_detail d, bool fails) {
  culprit_report& c = r_.culprit;
  if (c.first_bad_position < 0 && fails) c.first_bad_position = d.first_bad;
  c.by_position.insert(c.by_position.end(), d.by_position.begin(), d.by_position.end());
  for (std::size_t i = 0; i < d.ulp_bins.size(); ++i) c.ulp_histogram[i] += d.ulp_bins[i];
  if (c.by_axis.empty()) c.by_axis = std::move(d.by_axis);
}

DSV4_INLINE std::vector<std::string> patterns_of(const culprit_report& c,
                                                 const std::vector<index_t>& ratios) {
  std::vector<std::string> out;
  // Axes: the shortest run of coordinates that holds nearly all of the error, if it is at most half of them.
  for (std::size_t a = 1; a < c.by_axis.size(); ++a) {
    const auto& s = c.by_axis[a].share;
    const std::size_t n = s.size();
    if (n < 2) continue;
    std::size_t first = 0, last = n;
    double before = 0, after = 0;
    while (first < n && before + s[first] <= 1 - nearly_all) before += s[first++];
    while (last > first + 1 && before + after + s[last - 1] <= 1 - nearly_all) after += s[--last];
    if (last - first > (n + 1) / 2) continue;
    out.push_back(last - first == 1 ? "all errors in " + c.by_axis[a].axis + " " + std::to_string(first) +
                                          " of " + std::to_string(n)
                                    : "all errors in " + c.by_axis[a].axis + "s " + std::to_string(first) +
                                          "-" + std::to_string(last - 1) + " of " + std::to_string(n));
  }
  // Positions.
  std::vector<const position_error*> bad;
  double worst = 0;
  for (const position_error& p : c.by_position) worst = std::max(worst, p.rel_l2);
  for (const position_error& p : c.by_position)
    if (p.rel_l2 > worst * (1 - nearly_all)) bad.push_back(&p);
  const std::size_t rows = c.by_position.size();
  if (rows < 4 || bad.empty()) return out;
  const std::string what = c.axes.empty() ? "position" : c.axes[0] == "token" ? "position" : c.axes[0];
  if (bad.size() == 1) {
    out.push_back("only at " + what + " " + std::to_string(bad[0]->position));
    return out;
  }
  if (bad.size() < rows)
    for (const index_t m : ratios) {
      std::set<index_t> residues;
      for (const auto* p : bad) residues.insert(p->position % m);
      if (residues.size() == 1 && bad.size() >= 3 && m > 1)
        out.push_back("only at " + what + "s with " + what + " % " + std::to_string(m) +
                      " == " + std::to_string(*residues.begin()));
    }
  index_t first_bad = bad.front()->position;
  for (const auto* p : bad) first_bad = std::min(first_bad, p->position);
  index_t good_after = 0, rows_before = 0;
  for (const position_error& p : c.by_position) {
    if (p.position < first_bad) ++rows_before;
    if (p.position > first_bad && p.rel_l2 <= worst * (1 - nearly_all)) ++good_after;
  }
  if (good_after == 0 && rows_before > 0)
    out.push_back(what + " " + std::to_string(first_bad) +
                  (rows_before == 1 ? " and all later ones are wrong, the one before is right"
                                    : " and all later ones are wrong, those before are right"));
  // Growth: mean error of the last quarter against the first.
  const std::size_t quarter = rows / 4;
  if (quarter >= 2) {
    double early = 0, late = 0;
    for (std::size_t i = 0; i < quarter; ++i)
      early += c.by_position[i].rel_l2, late += c.by_position[rows - 1 - i].rel_l2;
    constexpr double much = 3;
    if (early > 0 && late > much * early) out.push_back("the error grows with the position");
  }
  return out;
}

}  // namespace dsv4::golden
