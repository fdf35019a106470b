// SPDX-License-Identifier: MIT
#pragma once
/// The map of a verification: one row per site in the order of execution, one column per layer, and in each cell
/// log10(error / allowed) of the worst recording there.  A first wrong tensor stands out as the cell
/// after which everything below and to the right is red.
#include <map>
#include <set>

#include "../judge/result.hpp"
#include "html.hpp"

namespace dsv4::golden::html {

/// Colour of a verdict: its hue; how strong, from log10(error / allowed).
inline std::string cell_colour(verdict v, double severity) {
  const double t = severity > 0 ? std::log10(severity) : -9;
  switch (v) {
    case verdict::pass: return severity == 0 ? "#e3f4e6" : mix({205, 236, 211}, {92, 184, 110}, (t + 4) / 4);
    case verdict::warn: return mix({255, 233, 160}, {245, 190, 60}, (t + 2) / 2);
    case verdict::fail: return mix({244, 140, 110}, {150, 10, 25}, t / 4);
    case verdict::tainted: return "#c9b8de";
    case verdict::not_judged: return "#d5dae0";
    default: return "none";
  }
}
/// How bad: for the worst of several recordings of one site.
constexpr int rank_of(verdict v) {
  switch (v) {
    case verdict::fail: return 5;
    case verdict::warn: return 4;
    case verdict::missing: return 3;
    case verdict::tainted: return 2;
    case verdict::pass: return 1;
    default: return 0;
  }
}

/// The map with its heading and its legend; each cell links to the row `#t<n>` of the table of recordings.
inline std::string heat_map(const verify_result& r) {
  std::string out = "<h2 id=\"map\">Layer by site: log10(error / allowed)</h2>\n";
  // Rows are sites in the order of execution, columns layers, then MTP and head.
  std::map<std::pair<int, index_t>, std::string> columns;
  std::vector<std::string> rows;
  std::map<std::pair<std::string, std::pair<int, index_t>>, std::size_t> cells;
  for (std::size_t i = 0; i < sites.size(); ++i) rows.emplace_back(sites[i].name);
  std::set<std::string> used;
  for (std::size_t i = 0; i < r.tensors.size(); ++i) {
    const tensor_result& t = r.tensors[i];
    if (std::find(rows.begin(), rows.end(), t.site) == rows.end()) rows.push_back(t.site);
    const int part = t.scope.starts_with("layers.") ? 0 : t.scope.starts_with("mtp.") ? 1 : 2;
    const std::pair<int, index_t> column{part, t.layer};
    columns[column] = part == 0   ? std::to_string(t.layer)
                      : part == 1 ? "mtp " + std::to_string(t.layer)
                                  : "head";
    used.insert(t.site);
    const auto [at, is_new] = cells.try_emplace({t.site, column}, i);
    const tensor_result& other = r.tensors[at->second];
    if (!is_new && std::pair(rank_of(t.v), t.severity) > std::pair(rank_of(other.v), other.severity))
      at->second = i;
  }
  std::erase_if(rows, [&](const std::string& s) { return !used.contains(s); });
  if (rows.empty()) {
    out += "<p class=\"empty\">Nothing was compared.</p>\n";
    return out;
  }
  constexpr std::size_t most_rows = 200;
  if (rows.size() > most_rows) rows.resize(most_rows);
  const double label = 210, high = 15, gap = 10,
               w = std::clamp((1180 - label) / double(columns.size()), 9.0, 56.0);
  chart c(label + w * double(columns.size()) + 2 * gap + 14, high * double(rows.size()) + 26,
          "layer by site");
  c.raw(
      "<defs><pattern id=\"taint\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" "
      "patternTransform=\"rotate(45)\"><rect width=\"5\" height=\"5\" fill=\"#e4dbef\"/><rect width=\"2\" "
      "height=\"5\" fill=\"#a98fca\"/></pattern></defs>");
  double x = label;
  std::map<std::pair<int, index_t>, double> place;
  std::size_t n = 0;
  const std::size_t every = w >= 16 ? 1 : 5;
  int group = 0;
  for (const auto& [column, name] : columns) {
    if (column.first != group) x += gap, group = column.first;
    if (n++ % every == 0 || column.first) c.text(x + w / 2, 14, "tick", name, "middle");
    place[column] = x, x += w;
  }
  for (std::size_t y = 0; y < rows.size(); ++y) {
    const double top = 20 + high * double(y);
    c.text(label - 8, top + 11, "site", rows[y], "end");
    for (const auto& [column, left] : place) {
      const auto at = cells.find({rows[y], column});
      if (at == cells.end()) continue;
      const tensor_result& t = r.tensors[at->second];
      const bool guilty =
          r.culprit.found && r.culprit.at < r.tensors.size() && r.tensors[r.culprit.at].name == t.name;
      const std::string tip = t.name + " · " + std::string(name_of(t.v)) + " · error/allowed " +
                              number(t.severity) + " · relative L2 " + number(t.m.rel_l2) +
                              (t.noise > 0 ? " · noise " + number(t.noise) : "") + " · step " +
                              std::to_string(t.step) + (guilty ? " · first wrong tensor" : "");
      const std::string fill = t.v == verdict::tainted ? "url(#taint)" : cell_colour(t.v, t.severity);
      const bool dark = t.v == verdict::fail && t.severity > 30;
      c.raw(
          print("<a href=\"#t%zu\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"1.5\" "
                "fill=\"%s\" stroke=\"%s\" stroke-width=\"%s\"/>",
                at->second, left + .5, top + .5, w - 1, high - 1, fill.c_str(),
                guilty                    ? "currentColor"
                : t.v == verdict::missing ? "#98a3b0"
                                          : "none",
                guilty ? "2.2" : ".7"));
      c.raw("<title>" + escape(tip) + "</title>");
      if (w >= 28 && t.v != verdict::missing && t.v != verdict::tainted && t.v != verdict::not_judged)
        c.raw(print("<text class=\"in\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" style=\"fill:%s\">",
                    left + w / 2, top + 11, dark ? "#fff" : "#123") +
              (t.severity > 0 && std::isfinite(t.severity) ? print("%.1f", std::log10(t.severity))
               : t.severity > 0                            ? "∞"
                                                           : "=") +
              "</text>");
      c.raw("</a>");
    }
  }
  out += "<div class=\"over\">" + c.done() + "</div>\n<div class=\"legend\">";
  const auto key = [&](const std::string& colour, const char* says) {
    out += "<span><i style=\"background:" + colour + "\"></i>" + says + "</span>";
  };
  key("#e3f4e6", "equal, or 0"), key(cell_colour(verdict::pass, 1e-3), "pass, 1/1000 of what is allowed"),
      key(cell_colour(verdict::pass, 1), "pass, just");
  key(cell_colour(verdict::warn, 0.5), "warn: over 4 × the measured noise"),
      key(cell_colour(verdict::fail, 1.5), "fail, just"),
      key(cell_colour(verdict::fail, 1e4), "fail, 10⁴ times");
  key("#c9b8de", "tainted by a legal choice"), key("#d5dae0", "not judged");
  out +=
      "<span><i style=\"border:1px solid #98a3b0\"></i>not in the test</span><span><i style=\"border:2px "
      "solid currentColor\"></i>first wrong tensor</span></div>\n"
      "<p class=\"statement\">The worst recording of each site; a click leads to its row below.</p>\n";
  return out;
}

}  // namespace dsv4::golden::html
