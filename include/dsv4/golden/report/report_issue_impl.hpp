// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of report_issue.hpp.
#include <filesystem>
#include <limits>

#include "../../core/format_text.hpp"
#include "report_issue.hpp"

namespace dsv4::golden {

DSV4_INLINE std::optional<smallest_input> shrink(
    const verify_result& r, const bundle& golden,
    const std::function<verify_result(index_t, index_t)>& again) {
  if (!r.culprit.found) return std::nullopt;
  const tensor_result& t = r.tensors[r.culprit.at];
  const config& c = golden.model();
  smallest_input s;
  s.sequence = t.sequence;
  s.layers = t.layer >= 0 && !t.scope.starts_with("mtp.") ? t.layer + 1 : c.num_hidden_layers;
  // Rows of entries count at the last token of their block.
  const bool by_entry = !r.culprit.axes.empty() && r.culprit.axes[0] == "entry" && t.layer >= 0;
  const index_t bad = r.culprit.first_bad_position;
  s.tokens = bad < 0 ? t.to : by_entry ? (bad + 1) * std::max<index_t>(1, c.ratio(t.layer)) : bad + 1;
  const std::vector<std::int32_t> all = golden.ids(s.sequence);
  s.tokens = std::min(s.tokens, static_cast<index_t>(all.size()));
  const index_t layers =
      t.layer < 0 ? std::numeric_limits<index_t>::max() : s.layers;  // the head is above all
  const auto shows = [&](index_t tokens) {
    const verify_result part = again(layers, tokens);
    return part.culprit.found && part.tensors[part.culprit.at].name == t.name;
  };
  s.confirmed = shows(s.tokens);
  // Fewer tokens, as long as the same tensor is wrong first.  Forced mode runs the model each time: there once is enough.
  const bool cheap = r.mode == verify_mode::free_running;
  for (index_t low = 1; s.confirmed && cheap && low < s.tokens;) {
    const index_t middle = (low + s.tokens) / 2;
    if (shows(middle))
      s.tokens = middle;
    else
      low = middle + 1;
  }
  s.ids.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(s.tokens));
  return s;
}

DSV4_INLINE std::string report_issue(const verify_result& r, const bundle& golden, const std::string& engine,
                                     const std::string& version,
                                     const std::optional<smallest_input>& smallest) {
  const manifest& m = golden.about();
  const auto file = [](const std::string& path) { return std::filesystem::path(path).filename().string(); };
  const auto number = [](double x) { return format_text("%.7g", x); };
  const hint_result* cause = nullptr;
  for (const hint_result& h : r.culprit.hints)
    if (h.explains && !cause) cause = &h;
  std::string o = "### ";
  if (!r.culprit.found) {
    o += r.summary + "\n\n";
  } else {
    o += r.tensors[r.culprit.at].name + " is wrong first" + (cause ? ": " + cause->says : "") + "\n\n";
  }
  o += "| | |\n|---|---|\n";
  const auto row = [&](const std::string& what, const std::string& value) {
    if (!value.empty()) o += "| " + what + " | " + value + " |\n";
  };
  std::string weights = m.weights.kind;
  if (weights == "recipe") weights += " " + m.weights.recipe + ", seed " + std::to_string(m.weights.seed);
  row("compared by", "dsv4 " + version + ", `dsv4 verify`");
  row("engine", engine);
  row("its run", file(r.test));
  row("reference",
      m.name + ", made by " + m.created_by.value("program", "") + " " + m.created_by.value("version", ""));
  row("model", std::to_string(m.model.num_hidden_layers) + " layers, hidden size " +
                   std::to_string(m.model.hidden_size) + "; weights: " + weights);
  row("judged", "numerics " + r.numerics + ", mode " + std::string(name_of(r.mode)) + ", policy " +
                    std::string(name_of(r.policy)));
  row("outcome", r.summary);
  for (const structural_problem& p : r.structure) o += "\n- " + p.what;
  if (!r.culprit.found) return o + "\n";

  const culprit_report& c = r.culprit;
  const tensor_result& t = r.tensors[c.at];
  o += "\n**Where.** `" + t.name + "`, positions " + std::to_string(t.from) + " to " +
       std::to_string(t.to - 1) + ": " + t.why + ".";
  if (!t.m.worst.empty()) {
    o += " Worst at [";
    for (std::size_t a = 0; a < t.m.worst.size(); ++a)
      o += (a ? ", " : "") + (a < c.axes.size() ? c.axes[a] + " " : std::string()) +
           std::to_string(t.m.worst[a]);
    o += "]: found " + number(t.m.worst_test) + ", expected " + number(t.m.worst_expected) + ".";
  }
  if (!c.passing_deps.empty()) {
    o += " What it is computed from is right:";
    for (const std::string& d : c.passing_deps) o += " `" + d + "`";
    o += ".";
  }
  o += "\n";
  for (const std::string& p : c.patterns) o += "- " + p + "\n";
  if (cause)
    o += "\n**Likely cause.** " + cause->says + " (`" + cause->mistake +
         "`): with it the reference gives the same values, to a relative error of " +
         format_text("%.2g", cause->rel_l2) + ".\n";
  if (smallest) {
    o += "\n**Smallest input.** The first " + std::to_string(smallest->tokens) + " tokens and " +
         std::to_string(smallest->layers) + " of " + std::to_string(m.model.num_hidden_layers) + " layers" +
         (smallest->confirmed ? " (verified on these alone: the same tensor is wrong first)" : "") +
         ":\n```\n";
    for (std::size_t i = 0; i < smallest->ids.size(); ++i)
      o += (i ? "," : "") + std::to_string(smallest->ids[i]);
    o += "\n```\n";
  }
  return o;
}

}  // namespace dsv4::golden
