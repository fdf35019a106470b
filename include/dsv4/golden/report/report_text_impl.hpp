// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of report_text.hpp.
#include <locale>
#include <set>
#include <sstream>

#include "../../core/format_text.hpp"
#include "report_text.hpp"

namespace dsv4::golden {

namespace detail {

DSV4_INLINE std::string number(double x, const char* format = "%.3g") { return format_text(format, x); }
DSV4_INLINE std::string coordinate(const tensor_result& t, const std::vector<std::string>& axes) {
  std::string s = "[";
  for (std::size_t i = 0; i < t.m.worst.size(); ++i)
    s += (i ? ", " : "") +
         (i < axes.size() ? (axes[i] == "token" ? "position" : axes[i]) + " " : std::string()) +
         std::to_string(t.m.worst[i]);
  return s + "]";
}
/// "layers.0-5 attn.out, layers.2 attn.qr": what fails beside the culprit, by site.
DSV4_INLINE std::string also_failing(const verify_result& r, std::size_t most) {
  std::vector<std::pair<std::string, std::set<std::string>>> sites;
  for (std::size_t i = 0; i < r.tensors.size(); ++i) {
    const tensor_result& t = r.tensors[i];
    if (t.v != verdict::fail || t.name == r.tensors[r.culprit.at].name) continue;
    auto at = std::find_if(sites.begin(), sites.end(), [&](const auto& s) { return s.first == t.site; });
    if (at == sites.end()) sites.emplace_back(t.site, std::set<std::string>{}), at = sites.end() - 1;
    at->second.insert(t.scope);
  }
  std::string s;
  for (std::size_t i = 0; i < std::min(most, sites.size()); ++i)
    s += (i ? ", " : "") + sites[i].first + " (" +
         (sites[i].second.size() == 1 ? *sites[i].second.begin()
                                      : std::to_string(sites[i].second.size()) + " scopes") +
         ")";
  if (sites.size() > most) s += " and " + std::to_string(sites.size() - most) + " more sites";
  return s;
}

}  // namespace detail

DSV4_INLINE std::string report_text(const verify_result& r, bool all) {
  std::ostringstream o;
  o.imbue(std::locale::classic());  // integers without a locale's separators
  const auto n = [](index_t x) { return std::to_string(x); };
  constexpr std::size_t width = 160;
  const auto line = [&](std::string s) {
    if (s.size() > width) s = s.substr(0, width - 3) + "...";
    o << s << '\n';
  };
  o << r.summary << '\n';
  line("  golden " + r.golden + "  test " + r.test + "  numerics " + r.numerics + ", policy " +
       std::string(name_of(r.policy)));
  o << "  " << r.statement << '\n';
  std::string counts;
  for (std::size_t v = 0; v < r.counts.size(); ++v)
    if (r.counts[v])
      counts += (counts.empty() ? "" : ", ") + n(r.counts[v]) + " " + std::string(verdict_names[v]);
  if (r.skipped) counts += ", " + n(r.skipped) + " skipped";
  if (r.extra) counts += ", " + n(r.extra) + " only in the test";
  index_t ancestors = 0;
  for (const tensor_result& t : r.tensors) ancestors += t.from_ancestors;
  if (ancestors)
    counts += "; " + n(ancestors) + " judged from farther ancestors (direct inputs not recorded)";
  line("  tensors: " + (counts.empty() ? "none" : counts));
  std::size_t shown = 0;
  for (const structural_problem& p : r.structure)
    if (++shown <= 3) line("  structure: " + p.what);
  if (r.structure.size() > 3) line("  structure: and " + std::to_string(r.structure.size() - 3) + " more");

  if (r.culprit.found) {
    const culprit_report& c = r.culprit;
    const tensor_result& t = r.tensors[c.at];
    line("culprit: " + t.name + "  (step " + n(t.step) + ", sequence " + n(t.sequence) + ", positions " +
         n(t.from) + "-" + n(t.to - 1) + ", class " + std::string(name_of(t.cls)) + ")");
    line("  " + t.why);
    std::string inputs;
    for (const std::string& d : c.passing_deps) inputs += (inputs.empty() ? "" : ", ") + d;
    if (!inputs.empty()) line("  its inputs pass: " + inputs);
    if (!c.missing_deps.empty())
      line("  not recorded by the test: " + c.missing_deps.front() +
           (c.missing_deps.size() > 1 ? ", ..." : ""));
    if (t.cls == tolerance_class::choice)
      line("  " + n(t.m.rows_differ) + " of " + n(t.m.rows) + " rows differ (" + n(t.m.rows_order_only) +
           " in order only), mean Jaccard " + detail::number(t.m.jaccard) + "; first at " +
           detail::coordinate(t, c.axes) + ": " + detail::number(t.m.worst_test) + ", expected " +
           detail::number(t.m.worst_expected));
    else {
      line("  worst " + detail::coordinate(t, c.axes) + ": " + detail::number(t.m.worst_test, "%.7g") +
           ", expected " + detail::number(t.m.worst_expected, "%.7g") +
           (c.first_bad_position >= 0 ? "; first bad row " + n(c.first_bad_position) : ""));
      line("  relL2 " + detail::number(t.m.rel_l2) + "  calc_diff " + detail::number(t.m.calc_diff) +
           "  norm ratio " + detail::number(t.m.norm_ratio, "%.5f") + "  differ " +
           detail::number(100 * t.m.mismatch()) + " %  ulps p50/p99/max " + detail::number(t.m.ulp_p50) +
           "/" + detail::number(t.m.ulp_p99) + "/" + detail::number(t.m.ulp_max) + "  bias " +
           detail::number(t.m.bias, "%+.2f"));
    }
    shown = 0;
    for (const std::string& p : c.patterns)
      if (++shown <= 3) line("  pattern: " + p);
    shown = 0;
    for (const hint_result& h : c.hints)
      if (++shown <= 3)
        line(std::string(h.explains ? "  EXPLAINED BY " : "  nearer with ") + h.mistake + ": " + h.says +
             "  (then relL2 " + detail::number(h.rel_l2) + ")");
    if (const std::string also = detail::also_failing(r, 4); !also.empty()) line("also failing: " + also);
  }
  if (!r.logits.empty()) {
    const logits_summary& s = r.logits_total;
    line("logits, test against golden (" + n(s.rows) + " rows): KL mean " + detail::number(s.kl_mean) +
         " max " + detail::number(s.kl_max) + " at " + n(s.kl_max_position) + ", top-1 " +
         detail::number(100 * s.top1) + " %, dNLL " + detail::number(s.delta_nll_mean, "%+.3g") + ", NMSE " +
         detail::number(s.nmse));
  }
  if (!r.routing.empty()) {
    index_t flips = 0, legal = 0;
    for (const routing_point& p : r.routing) flips += p.flipped, legal += p.flipped && p.legal;
    if (flips) line("choices: " + n(flips) + " differ, " + n(legal) + " of them within their margin");
  }
  shown = 0;
  for (const std::string& t : r.notes)
    if (++shown <= 2) line("note: " + t);
  if (all)
    for (const tensor_result& t : r.tensors)
      if (t.v == verdict::fail || t.v == verdict::warn)
        line(std::string(name_of(t.v)) + " " + t.name + " step " + n(t.step) + " sequence " + n(t.sequence) +
             ": " + t.why);
  return o.str();
}

DSV4_INLINE std::string report_text(const power_matrix& p) {
  std::ostringstream o;
  o.imbue(std::locale::classic());  // integers without a locale's separators
  const auto cell = [](const mutation_outcome& m, const mutation_verdict& v) -> std::string {
    if (!m.exercised) return "-";
    if (!v.caught) return "ESCAPED";
    return v.named ? "named" : "as " + v.culprit;
  };
  const bool several = std::any_of(p.rows.begin(), p.rows.end(),
                                   [&](const mutation_outcome& m) { return m.bundle != p.rows[0].bundle; });
  o << format_text("%2s %-40s %-25s %-38s %-8s %-8s %s%s\n", "#", "bug", "planted", "first wrong tensor",
                   "forced", "free", "hint", several ? "    by" : "");
  int last = 0;
  for (const mutation_outcome& m : p.rows) {
    const std::string bug = m.bug == last ? "" : std::string(bug_names[usize(m.bug - 1)]);
    const std::string forced = cell(m, m.forced), free = cell(m, m.free);
    o << format_text("%2d %-40s %-25s %-38s %-8s %-8s %-7s %s\n", m.bug, bug.c_str(), m.name.c_str(),
                     m.exercised ? m.expected.c_str() : "(not reached)", forced.c_str(), free.c_str(),
                     m.hint.empty() ? "-"
                     : m.hint_right ? "right"
                                    : m.hint.c_str(),
                     several && m.exercised ? m.bundle.c_str() : "");
    last = m.bug;
  }
  const auto escaped = p.escaped();
  index_t right = 0, exercised = 0;
  for (const mutation_outcome& m : p.rows) exercised += m.exercised, right += m.right();
  o << right << " of " << exercised << " exercised variants caught and named; "
    << p.rows.size() - usize(exercised) << " not reached";
  if (!escaped.empty()) {
    o << "; bugs without any that is:";
    for (const int b : escaped) o << ' ' << b;
  }
  o << '\n';
  return o.str();
}

}  // namespace dsv4::golden
