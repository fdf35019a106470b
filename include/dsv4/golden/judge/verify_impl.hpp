// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of verify.hpp.
#include <chrono>

#include "../../io/config_identity.hpp"
#include "../../io/config_out.hpp"
#include "experts.hpp"
#include "hints.hpp"
#include "logits_rows.hpp"
#include "verify.hpp"

namespace dsv4::golden {

namespace detail {

DSV4_INLINE void compare_configurations(verify_ledger& ledger) {
  const auto a = io::to_json(ledger.golden().model()), b = io::to_json(ledger.test().model());
  if (ledger.golden().about().config_sha256 == ledger.test().about().config_sha256) return;
  std::string differ;
  int shown = 0;
  for (auto at = a.begin(); at != a.end(); ++at)
    if (!b.contains(at.key()) || b[at.key()] != at.value()) {
      if (++shown <= 3)
        differ += (shown > 1 ? "; " : "") + at.key() + " is " +
                  (b.contains(at.key()) ? b[at.key()].dump() : "not there") + " in the test, " +
                  at.value().dump() + " in the golden";
    }
  ledger.structure(verify_exit::not_comparable,
                   "the configurations differ: " + (differ.empty() ? "fields" : differ));
}

DSV4_INLINE void compare_inputs(verify_ledger& ledger) {
  const bundle &g = ledger.golden(), &t = ledger.test();
  g.confirm_ids(), t.confirm_ids();
  if (g.sequences() != t.sequences()) {
    ledger.structure(verify_exit::not_comparable, std::to_string(t.sequences()) + " sequences in the test, " +
                                                      std::to_string(g.sequences()) + " in the golden");
    return;
  }
  for (index_t s = 0; s < g.sequences(); ++s) {
    const auto a = t.ids(s), b = g.ids(s);
    const std::size_t n = std::min(a.size(), b.size());
    std::size_t at = 0;
    while (at < n && a[at] == b[at]) ++at;
    if (at < n) {
      std::string what = "token ids differ at " + std::to_string(at) + " of sequence " + std::to_string(s) +
                         ": " + std::to_string(a[at]) + " in the test, " + std::to_string(b[at]) +
                         " in the golden";
      // A token too many or too few, or another template.
      const auto shifted = [&](std::size_t da, std::size_t db) {
        constexpr std::size_t enough = 4;
        std::size_t same = 0;
        while (at + da + same < a.size() && at + db + same < b.size() &&
               a[at + da + same] == b[at + db + same])
          ++same;
        return same >= enough;
      };
      if (shifted(1, 0))
        what += "; the test has one token more there (beginning of text twice? template?)";
      else if (shifted(0, 1))
        what += "; the test has one token less there (beginning of text missing? template?)";
      else
        what += "; another tokenizer or chat template";
      ledger.structure(verify_exit::not_comparable, std::move(what));
      return;
    }
    if (a.size() != b.size()) {
      ledger.structure(verify_exit::not_comparable, std::to_string(a.size()) + " tokens in the test, " +
                                                        std::to_string(b.size()) +
                                                        " in the golden; the common ones are equal");
      return;
    }
    if (t.positions(s) != g.positions(s)) {
      ledger.structure(verify_exit::not_comparable,
                       "position ids of sequence " + std::to_string(s) + " differ");
      return;
    }
  }
}

DSV4_INLINE void compare_manifests(verify_ledger& ledger) {
  const manifest &g = ledger.golden().about(), &t = ledger.test().about();
  compare_configurations(ledger);
  if (g.policy() != t.policy() && ledger.result().policy != tolerance_policy::quant)
    ledger.structure(verify_exit::not_comparable,
                     "the test ran numerics '" + t.policy() + "', the golden '" + g.policy() +
                         "': they differ by about 18 % and can only be compared under --policy quant");
  const auto &a = g.weights, &b = t.weights;
  const bool recipes = a.kind == "recipe" && b.kind == "recipe" && (a.recipe != b.recipe || a.seed != b.seed);
  bool files = false;
  if (a.kind == "files" && b.kind == "files")
    for (const weight_file& f : a.files)
      for (const weight_file& o : b.files)
        if (f.name == o.name && f.sha256 && o.sha256 && *f.sha256 != *o.sha256) files = true;
  if (recipes || files) {
    if (ledger.result().policy == tolerance_policy::quant)
      ledger.note("the weights are other files: expected under policy quant");
    else
      ledger.structure(verify_exit::not_comparable,
                       "the weights are not the same (by their hashes in the two manifests)");
  }
  compare_inputs(ledger);
}

DSV4_INLINE std::string statement_of(const verify_result& r, bool forced_possible) {
  if (r.mode == verify_mode::forced)
    return "Forced: every operator of the test was recomputed by exec::ref from the test's own recorded "
           "inputs; this shows a wrong operator "
           "wherever it is, and cannot show that the run as a whole has the golden's results.";
  std::string s = "Free: the test's values were compared with the golden's, from the first to the last; ";
  if (r.policy == tolerance_policy::strict)
    return s + "this shows any difference in bits, and cannot forgive another order of summation.";
  if (r.numerics == "float32")
    return s + "this shows errors above rounding, and blames only the first: later values follow from it.";
  return s +
         "under quantised activations runs that are not bit-identical drift apart by 6 to 40 %, so that this "
         "shows gross errors only" +
         (forced_possible ? " (forced mode has the power)."
                          : " (give --model for forced mode, which has the power).");
}

DSV4_INLINE void summarise(verify_result& r) {
  const index_t judged = r.count(verdict::pass) + r.count(verdict::warn) + r.count(verdict::fail);
  const auto n = [](index_t x) { return std::to_string(x); };
  int structural = 0;
  for (const structural_problem& p : r.structure)
    if (p.exit_code == verify_exit::not_comparable || structural == 0) structural = p.exit_code;
  if (structural == verify_exit::not_comparable) {
    r.exit_code = structural;
    r.summary = "NOT COMPARABLE: " + [&] {
      for (const auto& p : r.structure)
        if (p.exit_code == structural) return p.what;
      return std::string();
    }();
  } else if (r.culprit.found) {
    const tensor_result& c = r.tensors[r.culprit.at];
    r.exit_code = c.m.masks_differ                   ? verify_exit::anomaly
                  : c.cls == tolerance_class::choice ? verify_exit::choice
                                                     : verify_exit::numeric;
    r.summary = "FAIL: " + c.name + " is wrong first; " + n(r.count(verdict::fail)) + " of " + n(judged) +
                " tensors fail";
  } else if (structural) {
    r.exit_code = structural;
    r.summary = "STRUCTURE: " + r.structure.front().what;
  } else if (judged == 0) {
    r.exit_code = verify_exit::structure;
    r.summary = "NOTHING COMPARED: no tensor was selected, or the test has none of the golden's";
    r.structure.push_back({verify_exit::structure, r.summary});
  } else {
    r.summary = "PASS: " + n(judged) + " tensors";
    if (r.count(verdict::warn)) r.summary += ", " + n(r.count(verdict::warn)) + " of them with a warning";
  }
}

}  // namespace detail

DSV4_INLINE verify_result verify(const bundle& golden, const bundle& test, const verify_options& options) {
  const auto begin = std::chrono::steady_clock::now();
  verify_result r;
  r.golden = golden.path().string(), r.test = test.path().string();
  r.numerics = golden.about().policy().empty() ? "official" : golden.about().policy();
  r.policy = options.policy, r.k_noise = options.k_noise;
  const bool forced_by_default = r.numerics != "float32" && options.policy != tolerance_policy::strict;
  r.mode = options.mode.value_or(forced_by_default && options.weights ? verify_mode::forced
                                                                      : verify_mode::free_running);
  expects(r.mode == verify_mode::free_running || options.weights,
          "verify: forced mode recomputes operators and needs the weights (--model)");
  r.statement = detail::statement_of(r, options.weights != nullptr);
  try {
    verify_ledger ledger(golden, test, options, r);
    detail::compare_manifests(ledger);
    const bool comparable = std::none_of(r.structure.begin(), r.structure.end(), [](const auto& p) {
      return p.exit_code == verify_exit::not_comparable;
    });
    if (comparable) {
      compare_all_logits(ledger);
      if (r.mode == verify_mode::forced) {
        try {
          compare_forced(ledger, *options.weights);
        } catch (const contract_violation& e) {  // the test's calls or values are not those of a run
          ledger.structure(verify_exit::structure,
                           std::string("the test's calls cannot be run: ") + e.what());
        }
      } else {
        compare_free(ledger);
      }
      std::set<std::string> known;
      for (const tensor_entry& t : golden.tensors()) known.insert(t.name);
      for (const tensor_entry& t : test.tensors()) r.extra += !t.is_margin() && !known.contains(t.name);
      if (r.culprit.found) {
        std::set<index_t> ratios;
        for (const index_t ratio : golden.model().compress_ratios)
          if (ratio > 1) ratios.insert(ratio);
        r.culprit.patterns = patterns_of(r.culprit, {ratios.begin(), ratios.end()});
        find_experts(ledger);
        if (options.hints && options.weights) try {
            find_hints(ledger, *options.weights);
          } catch (const contract_violation& e) {
            r.notes.push_back(std::string("no hints: the test's calls cannot be run: ") + e.what());
          }
        if (options.hints && !options.weights)
          r.notes.push_back("no hints: they recompute the culprit, which needs the weights (--model)");
      }
    }
  } catch (const std::regex_error& e) {
    throw contract_violation(std::string("verify: not a regular expression: ") + e.what());
  }
  std::stable_sort(r.routing.begin(), r.routing.end(),
                   [](const routing_point& a, const routing_point& b) { return a.flipped > b.flipped; });
  detail::summarise(r);
  if (r.exit_code == verify_exit::ok && options.werror && r.count(verdict::warn))
    r.exit_code = verify_exit::warnings;
  r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return r;
}

}  // namespace dsv4::golden
