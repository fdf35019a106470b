// SPDX-License-Identifier: MIT
#pragma once
/// The ledger of a verification, which both modes write: which tensors are selected, what became of each
/// comparison, which rows follow a choice that differs legally (taint), and the culprit once it is found.
///
/// Entries come in the golden's order of execution, and a tensor's dependencies come before the tensor.  So the
/// first failing entry is one all of whose (recorded) dependencies pass: the culprit.
#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <regex>
#include <set>

#include "compare.hpp"
#include "options.hpp"

namespace dsv4::golden {

class verify_ledger {
 public:
  verify_ledger(const bundle& golden, const bundle& test, const verify_options& options,
                verify_result& result);

  const bundle& golden() const { return golden_; }
  const bundle& test() const { return test_; }
  const config& model() const { return golden_.model(); }
  verify_result& result() { return r_; }
  tolerance_context context() const;

  /// Whether the options ask for this recording at all.
  bool selected(const tensor_entry& t) const;
  /// Whether a row of a recording is asked for.  Entries count at their last token.
  bool selected_row(const tensor_entry& t, index_t row) const {
    return options_.positions.has(position_of(t, row));
  }
  index_t position_of(const tensor_entry& t, index_t row) const;

  void missing(const tensor_entry& t);
  void structure(int code, std::string what);
  void note(std::string text);
  static std::string where(const tensor_entry& t) {
    return t.name + " (step " + std::to_string(t.step) + ", sequence " + std::to_string(t.sequence) + ")";
  }

  /// A finished comparison: verdict, counts, and the culprit's detail.
  void add(tensor_comparison& c, const tensor_entry& t, bool from_ancestors = false);

  // ---- logits, compared before the values are (logits_rows.hpp)

  void add_logits(const tensor_entry& of_test, logits_point p);
  /// The comparison of this row of the test; null if there is none.
  const logits_point* known_logits(const tensor_entry& of_test, index_t row) const;

  // ---- taint: rows that follow a legal flip (free mode)

  void flip(const tensor_entry& t, index_t position) { flips_[t.sequence][layer_number(t)].insert(position); }
  bool tainted(const tensor_entry& t, index_t row) const;
  bool any_flip() const { return !flips_.empty(); }

  /// How far the scores behind a choice moved at a position, by the latest comparison of them.
  double score_error(const tensor_entry& choice, index_t position) const;
  static std::string scores_name(const tensor_entry& choice) {
    return choice.scope + (choice.site == "ffn.gate.indices" ? ".ffn.gate.biased" : ".attn.indexer.scores");
  }
  /// Gaps of the golden's choice at a row: [0] set, [2] order; infinity where unknown.
  std::array<double, 3> golden_margin(const tensor_entry& g, index_t row) const;
  void routing_point_of(const tensor_entry& g, index_t position, double margin, bool flipped, bool legal);

 private:
  static bool is_scores(const tensor_entry& t) {
    return t.site == "ffn.gate.biased" || t.site == "attn.indexer.scores";
  }
  index_t layer_number(const tensor_entry& t) const;
  void push(tensor_result r);
  void routing(tensor_comparison&, const tensor_entry&);
  void dependencies(const tensor_entry& t);
  /// Adds one call of the culprit's site to its detail.
  void detail(comparison_detail d, bool fails);

  const bundle& golden_;
  const bundle& test_;
  const verify_options& options_;
  verify_result& r_;
  std::optional<std::regex> only_, allow_skip_;
  std::set<std::string> missing_names_;
  std::string culprit_name_;
  std::map<index_t, std::map<index_t, std::set<index_t>>> flips_;  // sequence, layer, positions
  std::map<std::pair<index_t, std::string>, std::map<index_t, double>> score_error_;
  std::vector<routing_point> pending_;
  std::map<std::pair<index_t, index_t>, std::size_t> logits_at_;  // seq of the test's recording, row
};

/// The share of an error that counts as all of it.
inline constexpr double nearly_all = 0.999;

/// What the errors of the culprit have in common, in words.
std::vector<std::string> patterns_of(const culprit_report& c, const std::vector<index_t>& ratios);

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "ledger_impl.hpp"
#endif
