// SPDX-License-Identifier: MIT
#pragma once
/// Errors of what a mixture of experts gives, by expert: one damaged expert (a wrong shard, a scale that was
/// dropped, a kernel that mixes up its batch) is wrong on exactly the tokens that are routed to it.
///
/// share(e) = squared relative error of the tokens that use e, of all squared relative errors.  A token uses
/// several experts, so shares add up to their number; one that has nearly all of the error is the culprit.
#include "ledger.hpp"

namespace dsv4::golden {

/// Sites whose rows are sums over a token's experts.
constexpr bool sums_experts(std::string_view site) {
  return site == "ffn.routed" || site == "ffn.out" || site == "out";
}

/// The experts of every token of a scope, as the run used them: the test's where it recorded them.
inline std::map<std::pair<index_t, index_t>, std::vector<index_t>> experts_of(const verify_ledger& ledger,
                                                                              const std::string& scope) {
  std::map<std::pair<index_t, index_t>, std::vector<index_t>> chosen;  // by sequence and position
  const std::string name = scope + ".ffn.gate.indices";
  for (const bundle* b : {&ledger.golden(), &ledger.test()})
    for (const tensor_entry* t : b->find_all(name)) {
      const tensor_data d = b->read(*t);
      for (index_t row = 0; row < t->rows(); ++row) {
        auto& of_token = chosen[{t->sequence, t->from + row}];
        of_token.clear();
        for (index_t k = 0; k < t->row_elements(); ++k)
          of_token.push_back(static_cast<index_t>(d[row * t->row_elements() + k]));
      }
    }
  return chosen;
}

/// Fills the culprit's by_expert, and says so if the error is that of one expert.
inline void find_experts(verify_ledger& ledger) {
  verify_result& r = ledger.result();
  culprit_report& c = r.culprit;
  if (!sums_experts(r.tensors[c.at].site)) return;
  const auto chosen = experts_of(ledger, r.tensors[c.at].scope);
  // A row counts as wrong if its error is at least a thousandth of the worst row's, as in the other patterns.
  double worst = 0, all = 0;
  for (const position_error& p : c.by_position) worst = std::max(worst, p.rel_l2), all += p.rel_l2 * p.rel_l2;
  if (!(all > 0) || !std::isfinite(all)) return;
  std::map<index_t, error_by_expert> experts;
  index_t wrong = 0, rows = 0;
  for (const position_error& p : c.by_position) {
    const auto at = chosen.find({p.sequence, p.position});
    if (at == chosen.end()) return;  // a token whose routing was not recorded says nothing about experts
    const bool is_wrong = p.rel_l2 > worst * (1 - nearly_all);
    ++rows, wrong += is_wrong;
    for (const index_t e : std::set<index_t>(at->second.begin(), at->second.end())) {
      error_by_expert& x = experts[e];
      x.expert = e, ++x.rows, x.wrong_rows += is_wrong;
      x.share += p.rel_l2 * p.rel_l2 / all;
    }
  }
  for (const auto& [e, x] : experts) c.by_expert.push_back(x);
  // The rarest expert whose tokens are all the wrong ones.  To be told from the others it needs two wrong rows, and
  // there must be right rows that did not use it.
  const error_by_expert* guilty = nullptr;
  for (const error_by_expert& x : c.by_expert)
    if (x.share >= nearly_all && x.wrong_rows == wrong && x.rows < rows && (!guilty || x.rows < guilty->rows))
      guilty = &x;
  if (!guilty || wrong < 2) return;
  c.guilty_expert = guilty->expert;
  c.patterns.insert(c.patterns.begin(), "only rows whose expert " + std::to_string(guilty->expert) +
                                            " is used: " + std::to_string(wrong) + " of these " +
                                            std::to_string(guilty->rows) + " are wrong, the other " +
                                            std::to_string(rows - guilty->rows) + " are right");
}

}  // namespace dsv4::golden
