// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of report_json.hpp.
#include <cmath>
#include <locale>
#include <nlohmann/json.hpp>
#include <sstream>

#include "../../core/format_text.hpp"
#include "report_json.hpp"

namespace dsv4::golden {

namespace detail {

/// JSON has no NaN and no infinity: they are told as text.
DSV4_INLINE nlohmann::json json_number(double x) {
  if (std::isfinite(x)) return x;
  return x != x ? "nan" : x > 0 ? "inf" : "-inf";
}
}  // namespace detail

DSV4_INLINE nlohmann::ordered_json report_json(const verify_result& r, bool all_positions) {
  using nlohmann::ordered_json;
  const auto num = detail::json_number;
  const auto metrics = [&](const error_metrics& m) {
    return ordered_json{{"values", m.values},
                        {"rows", m.rows},
                        {"masked_rows", m.masked_rows},
                        {"different", m.different},
                        {"beyond", m.beyond},
                        {"max_abs", num(m.max_abs)},
                        {"mean_abs", num(m.mean_abs)},
                        {"worst", m.worst},
                        {"worst_test", num(m.worst_test)},
                        {"worst_expected", num(m.worst_expected)},
                        {"relL2", num(m.rel_l2)},
                        {"calc_diff", num(m.calc_diff)},
                        {"one_minus_cos", num(m.one_minus_cos)},
                        {"nmse_energy", num(m.nmse_energy)},
                        {"nmse_variance", num(m.nmse_variance)},
                        {"norm_ratio", num(m.norm_ratio)},
                        {"pass_rate", num(m.pass_rate())},
                        {"mismatch", num(m.mismatch())},
                        {"ulp_p50", num(m.ulp_p50)},
                        {"ulp_p99", num(m.ulp_p99)},
                        {"ulp_max", num(m.ulp_max)},
                        {"bias", num(m.bias)},
                        {"bias_sigma", num(m.bias_sigma)},
                        {"nan_test", m.nan_test},
                        {"inf_test", m.inf_test},
                        {"nan_expected", m.nan_expected},
                        {"inf_expected", m.inf_expected},
                        {"masks_differ", m.masks_differ},
                        {"rows_differ", m.rows_differ},
                        {"rows_legal", m.rows_legal},
                        {"rows_order_only", m.rows_order_only},
                        {"jaccard", num(m.jaccard)},
                        {"recall", num(m.recall)}};
  };
  ordered_json j{{"schema", "dsv4-verify/1"}, {"exit_code", r.exit_code}, {"summary", r.summary},
                 {"statement", r.statement},  {"golden", r.golden},       {"test", r.test},
                 {"numerics", r.numerics},    {"mode", name_of(r.mode)},  {"policy", name_of(r.policy)},
                 {"k_noise", r.k_noise},      {"seconds", r.seconds},     {"bytes", r.bytes},
                 {"skipped", r.skipped},      {"extra", r.extra}};
  for (std::size_t v = 0; v < r.counts.size(); ++v) j["counts"][std::string(verdict_names[v])] = r.counts[v];
  j["structure"] = ordered_json::array();
  for (const auto& p : r.structure) j["structure"].push_back({{"exit_code", p.exit_code}, {"what", p.what}});
  j["notes"] = r.notes;
  j["culprit"] = nullptr;
  if (r.culprit.found) {
    const culprit_report& c = r.culprit;
    const tensor_result& t = r.tensors[c.at];
    ordered_json hints = ordered_json::array(), axes = ordered_json::array(),
                 positions = ordered_json::array(), experts = ordered_json::array();
    for (const hint_result& h : c.hints)
      hints.push_back({{"mistake", h.mistake},
                       {"says", h.says},
                       {"relL2", num(h.rel_l2)},
                       {"mismatch", num(h.mismatch)},
                       {"explains", h.explains}});
    for (const error_by_axis& a : c.by_axis)
      axes.push_back({{"axis", a.axis}, {"first", a.first}, {"share", a.share}});
    for (const error_by_expert& e : c.by_expert)
      experts.push_back(
          {{"expert", e.expert}, {"rows", e.rows}, {"wrong_rows", e.wrong_rows}, {"share", num(e.share)}});
    if (all_positions)
      for (const position_error& p : c.by_position)
        positions.push_back({p.sequence, p.position, num(p.rel_l2), num(p.max_abs)});
    j["culprit"] = {
        {"name", t.name},
        {"scope", t.scope},
        {"site", t.site},
        {"layer", t.layer},
        {"step", t.step},
        {"sequence", t.sequence},
        {"class", name_of(t.cls)},
        {"why", t.why},
        {"first_bad_position", c.first_bad_position},
        {"axes", c.axes},
        {"metrics", metrics(t.m)},
        {"patterns", c.patterns},
        {"passing_deps", c.passing_deps},
        {"missing_deps", c.missing_deps},
        {"hints", std::move(hints)},
        {"error_by_axis", std::move(axes)},
        {"error_by_position", std::move(positions)},
        {"error_by_expert", std::move(experts)},
        {"guilty_expert", c.guilty_expert < 0 ? ordered_json(nullptr) : ordered_json(c.guilty_expert)},
        {"ulp_histogram", c.ulp_histogram}};
  }
  const logits_summary& s = r.logits_total;
  j["logits"] = {{"rows", s.rows},
                 {"kl_mean", num(s.kl_mean)},
                 {"kl_p999", num(s.kl_p999)},
                 {"kl_max", num(s.kl_max)},
                 {"kl_max_position", s.kl_max_position},
                 {"reverse_kl_mean", num(s.reverse_kl_mean)},
                 {"js_mean", num(s.js_mean)},
                 {"top1", s.top1},
                 {"top1_sure", s.top1_sure},
                 {"delta_nll_mean", num(s.delta_nll_mean)},
                 {"delta_p_rms", num(s.delta_p_rms)},
                 {"nmse", num(s.nmse)}};
  index_t flips = 0, legal = 0;
  for (const routing_point& p : r.routing) flips += p.flipped, legal += p.flipped && p.legal;
  j["choices"] = {{"points", r.routing.size()}, {"flips", flips}, {"legal", legal}};
  j["tensors"] = ordered_json::array();
  for (const tensor_result& t : r.tensors)
    j["tensors"].push_back({{"name", t.name},
                            {"step", t.step},
                            {"sequence", t.sequence},
                            {"from", t.from},
                            {"to", t.to},
                            {"class", name_of(t.cls)},
                            {"verdict", name_of(t.v)},
                            {"severity", num(t.severity)},
                            {"why", t.why},
                            {"noise", t.noise},
                            {"from_ancestors", t.from_ancestors},
                            {"metrics", metrics(t.m)}});
  return j;
}

DSV4_INLINE nlohmann::ordered_json report_json(const power_matrix& p) {
  using nlohmann::ordered_json;
  ordered_json rows = ordered_json::array();
  const auto v = [](const mutation_verdict& m) {
    return ordered_json{
        {"caught", m.caught}, {"named", m.named}, {"exit_code", m.exit_code}, {"culprit", m.culprit}};
  };
  for (const mutation_outcome& m : p.rows)
    rows.push_back({{"bug", m.bug},
                    {"title", bug_names[usize(m.bug - 1)]},
                    {"planted", m.name},
                    {"says", m.says},
                    {"exercised", m.exercised},
                    {"expected", m.expected},
                    {"forced", v(m.forced)},
                    {"free", v(m.free)},
                    {"hint", m.hint},
                    {"hint_right", m.hint_right},
                    {"bundle", m.bundle}});
  return {{"schema", "dsv4-power/1"},
          {"exit_code", p.exit_code()},
          {"escaped", p.escaped()},
          {"mutations", std::move(rows)}};
}

DSV4_INLINE std::string report_junit(const verify_result& r) {
  const auto escape = [](const std::string& s) {
    std::string o;
    for (const char c : s) {
      const auto u = static_cast<unsigned char>(c);
      if (c == '&')
        o += "&amp;";
      else if (c == '<')
        o += "&lt;";
      else if (c == '>')
        o += "&gt;";
      else if (c == '"')
        o += "&quot;";
      else if (u >= 0x20 || c == '\n' || c == '\t')
        o += c;
    }
    return o;
  };
  struct per_class {
    index_t tensors = 0, failed = 0;
    std::string text;
  };
  std::array<per_class, usize(tolerance_class::count)> all{};
  for (const tensor_result& t : r.tensors) {
    per_class& c = all[usize(t.cls)];
    ++c.tensors;
    if (t.v != verdict::fail && t.v != verdict::missing) continue;
    constexpr index_t most = 20;
    if (++c.failed <= most)
      c.text += t.name + " step " + std::to_string(t.step) + " sequence " + std::to_string(t.sequence) +
                ": " + t.why + "\n";
  }
  index_t tests = 1, failures = !r.structure.empty();
  for (const per_class& c : all) tests += c.tensors > 0, failures += c.failed > 0;
  std::ostringstream o;
  o.imbue(std::locale::classic());  // integers without a locale's separators
  o << "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"dsv4 verify\" tests=\"" << tests
    << "\" failures=\"" << failures << "\" time=\"" << format_text("%g", r.seconds) << "\">\n";
  const auto one = [&](const std::string& name, const std::string& message, const std::string& text) {
    o << "  <testcase classname=\"verify." << name_of(r.mode) << '.' << name_of(r.policy) << "\" name=\""
      << escape(name) << "\"";
    if (message.empty()) {
      o << "/>\n";
    } else {
      o << "><failure message=\"" << escape(message) << "\">" << escape(text) << "</failure></testcase>\n";
    }
  };
  std::string structure;
  for (const auto& p : r.structure) structure += p.what + "\n";
  one("structure", r.structure.empty() ? "" : r.structure.front().what, structure);
  for (std::size_t i = 0; i < all.size(); ++i)
    if (all[i].tensors)
      one(std::string(tolerance_class_names[i]),
          all[i].failed ? std::to_string(all[i].failed) + " of " + std::to_string(all[i].tensors) +
                              " tensors: " + r.summary
                        : "",
          all[i].text);
  o << "</testsuite>\n";
  return o.str();
}

}  // namespace dsv4::golden
