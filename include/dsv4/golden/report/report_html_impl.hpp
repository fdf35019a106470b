// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of report_html.hpp.
#include <functional>

#include "heat_map.hpp"
#include "report_html.hpp"

namespace dsv4::golden {

namespace html {

inline constexpr const char* page_style = R"(<style>
:root{--bg:#fff;--fg:#1c2128;--dim:#667080;--line:#d9dee5;--soft:#f4f6f8;--accent:#0b62c4;--good:#1a7f37;--bad:#c02020;--warn:#b26a00}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:14px/1.45 system-ui,"Segoe UI","DejaVu Sans",sans-serif}
main{max-width:1240px;margin:0 auto;padding:0 20px 60px}code,.mono,td.n,td.name{font-family:ui-monospace,"SF Mono","DejaVu Sans Mono",monospace;font-size:12.5px}
header{border-bottom:1px solid var(--line);padding:22px 0 16px;margin-bottom:8px}h1{font-size:22px;margin:0 0 6px;display:flex;align-items:center;gap:12px}
h2{font-size:16px;margin:30px 0 8px;border-bottom:1px solid var(--line);padding-bottom:4px}h3{font-size:13px;margin:14px 0 4px;color:var(--dim);font-weight:600}
.badge{color:#fff;border-radius:5px;padding:2px 12px;font-size:17px;letter-spacing:.5px}.badge.good{background:var(--good)}.badge.bad{background:var(--bad)}.badge.warn{background:var(--warn)}
.statement{color:var(--dim);max-width:95ch;margin:4px 0}.facts{display:flex;flex-wrap:wrap;gap:4px 22px;margin-top:10px;font-size:13px}.facts b{font-weight:600}.facts span{color:var(--dim);overflow-wrap:anywhere}
.panel{border:1px solid var(--line);border-left:4px solid var(--bad);border-radius:6px;padding:12px 18px 16px;background:var(--soft);margin-top:14px}.panel h2{border:0;margin:0;padding:0}
.cols{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:6px 30px}@media(max-width:900px){.cols{grid-template-columns:1fr}}.cols>*{min-width:0}
.kv{display:grid;grid-template-columns:max-content 1fr;gap:1px 14px;margin:4px 0}.kv dt{color:var(--dim)}.kv dd{margin:0;font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:12.5px;overflow-wrap:anywhere}
ul{margin:4px 0 4px 18px;padding:0}li{margin:1px 0;overflow-wrap:anywhere}li.yes{list-style:"✔ ";color:var(--good);font-weight:600}li.no{list-style:"· ";color:var(--dim)}
table{border-collapse:collapse;width:100%;font-size:13px}th{text-align:left;font-weight:600;color:var(--dim);border-bottom:1px solid var(--line);padding:3px 8px}th.n,td.n{text-align:right;white-space:nowrap}td{padding:2px 8px;border-bottom:1px solid var(--soft);vertical-align:top}td.why{color:var(--dim);font-size:12.5px}
tr:target{background:#fff3bf;color:#000}.v{border-radius:4px;padding:0 6px;font-size:12px;color:#fff;white-space:nowrap}.v.pass{background:#3d9a57}.v.warn{background:var(--warn)}.v.fail{background:var(--bad)}.v.tainted{background:#8a6bb0}.v.not_judged{background:#8c96a3}.v.missing{background:#5b6470}
svg{display:block;width:100%;height:auto}svg,svg a{color:var(--fg)}svg text{fill:var(--fg);font:11px system-ui,"DejaVu Sans",sans-serif}svg .tick{fill:var(--dim);font-size:10.5px}svg .label{fill:var(--dim)}svg .grid{stroke:var(--line);stroke-width:.7}svg .site{font:11px ui-monospace,"DejaVu Sans Mono",monospace}svg .in{font-size:9.5px;pointer-events:none}
.main{fill:var(--accent)}.flip{fill:var(--bad)}.legal{fill:#e08a00}.quiet{fill:#98a3b0;fill-opacity:.45}.rule{stroke:var(--fg);stroke-dasharray:4 3;fill:none}.curve{stroke:var(--accent);stroke-width:1.4;fill:none}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:12.5px;color:var(--dim);margin:6px 0}.legend i{display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:6px;vertical-align:-1px}a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
nav{font-size:13px;display:flex;gap:16px;margin-top:8px}details>summary{cursor:pointer;margin:8px 0}.empty{color:var(--dim)}.over{overflow-x:auto}
@media(prefers-color-scheme:dark){:root{--bg:#14181d;--fg:#e4e8ed;--dim:#9aa5b1;--line:#333b45;--soft:#1c222a;--accent:#64a8ff;--good:#2f9e4f;--bad:#d64545;--warn:#c98a1b}}
</style>)";

class page {
 public:
  explicit page(const verify_result& r) : r_(r) {}

  std::string text() {
    out_ =
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
        "'unsafe-inline'\">"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>dsv4 verify: " +
        escape(headline().first + ": " + headline().second) + "</title>\n";
    out_ += page_style;
    out_ += "</head><body><main>\n";
    head();
    problems();
    if (r_.culprit.found && r_.culprit.at < r_.tensors.size()) culprit();
    out_ += heat_map(r_);
    out_ += "<div class=\"cols\"><section>";
    routing();
    out_ += "</section><section>";
    logits();
    out_ += "</section></div>\n";
    tables();
    return out_ + "</main></body></html>\n";
  }

 private:
  /// The capitals before the summary's colon, and the rest of it.
  std::pair<std::string, std::string> headline() const {
    const auto colon = r_.summary.find(": ");
    if (colon != r_.summary.npos &&
        std::all_of(r_.summary.begin(), r_.summary.begin() + static_cast<std::ptrdiff_t>(colon),
                    [](char c) { return (c >= 'A' && c <= 'Z') || c == ' '; }))
      return {r_.summary.substr(0, colon), r_.summary.substr(colon + 2)};
    return {r_.exit_code == 0 ? "PASS" : "FAIL", r_.summary};
  }

  void head() {
    const char* mood = r_.exit_code == 0 ? "good" : r_.exit_code == 6 || r_.exit_code == 4 ? "warn" : "bad";
    out_ += std::string("<header><h1><span class=\"badge ") + mood + "\">" + escape(headline().first) +
            "</span> " + escape(headline().second) + "</h1>\n<p class=\"statement\">" + escape(r_.statement) +
            "</p>\n<div class=\"facts\">";
    const auto fact = [&](const char* name, const std::string& value) {
      out_ += std::string("<div><span>") + name + "</span> <b>" + escape(value) + "</b></div>";
    };
    fact("golden", r_.golden), fact("test", r_.test), fact("numerics", r_.numerics),
        fact("mode", std::string(name_of(r_.mode)));
    fact("policy", std::string(name_of(r_.policy)));
    if (r_.policy != tolerance_policy::strict) fact("k of noise", number(r_.k_noise));
    for (std::size_t i = 0; i < r_.counts.size(); ++i)
      if (r_.counts[i]) fact(verdict_names[i].data(), std::to_string(r_.counts[i]));
    if (r_.skipped) fact("skipped", std::to_string(r_.skipped));
    if (r_.extra) fact("only in test", std::to_string(r_.extra));
    fact("exit code", std::to_string(r_.exit_code));
    fact("compared", print("%.1f MB in %.2f s", double(r_.bytes) / 1e6, r_.seconds));
    out_ +=
        "</div><nav><a href=\"#map\">map</a><a href=\"#routing\">routing</a><a href=\"#logits\">logits</a><a "
        "href=\"#worst\">worst first</a><a href=\"#all\">in order</a></nav></header>\n";
  }

  void list(const char* title, const std::vector<std::string>& items, const char* cls = "") {
    if (items.empty()) return;
    constexpr std::size_t most = 50;
    if (*title) out_ += std::string("<h3>") + title + "</h3>";
    out_ += "<ul>";
    for (std::size_t i = 0; i < std::min(items.size(), most); ++i)
      out_ += std::string("<li class=\"") + cls + "\">" + escape(items[i]) + "</li>";
    if (items.size() > most)
      out_ += "<li class=\"no\">and " + std::to_string(items.size() - most) + " more</li>";
    out_ += "</ul>";
  }
  void problems() {
    std::vector<std::string> lines;
    for (const structural_problem& p : r_.structure) lines.push_back(p.what);
    if (!lines.empty()) {
      out_ += "<div class=\"panel\"><h2>Structure</h2>";
      list("", lines);
      out_ += "</div>\n";
    }
    list("Notes", r_.notes);
  }

  void culprit() {
    const culprit_report& c = r_.culprit;
    const tensor_result& t = r_.tensors[c.at];
    const error_metrics& m = t.m;
    out_ += "<div class=\"panel\" id=\"culprit\"><h2>First wrong tensor: <code>" + escape(t.name) +
            "</code></h2>\n<p class=\"statement\">The first failing value all of whose inputs pass. " +
            escape(t.why) + "</p><div class=\"cols\"><div>";
    for (const hint_result& h : c.hints)
      if (h.explains)
        out_ += "<h3>A known mistake reproduces it</h3><ul><li class=\"yes\">" + escape(h.says) + " <code>" +
                escape(h.mistake) + "</code></li></ul>";
    list("Where the error is", c.patterns);
    out_ += "<h3>Values</h3><dl class=\"kv\">";
    const auto kv = [&](const char* name, const std::string& value) {
      out_ += std::string("<dt>") + name + "</dt><dd>" + escape(value) + "</dd>";
    };
    kv("call", "step " + std::to_string(t.step) + ", sequence " + std::to_string(t.sequence) +
                   ", positions [" + std::to_string(t.from) + ", " + std::to_string(t.to) + ")");
    if (c.first_bad_position >= 0)
      kv("first bad position",
         std::to_string(c.first_bad_position) + " of sequence " + std::to_string(c.sequence));
    std::string where;
    for (std::size_t a = 0; a < m.worst.size(); ++a)
      where += (a ? ", " : "") + (a < c.axes.size() ? c.axes[a] + " " : "") + std::to_string(m.worst[a]);
    if (!where.empty())
      kv("worst element", where), kv("test", print("%.9g", m.worst_test)),
          kv("expected", print("%.9g", m.worst_expected));
    kv("relative L2", number(m.rel_l2) + (t.noise > 0 ? " (measured noise " + number(t.noise) + ")" : ""));
    kv("error / allowed", number(t.severity));
    kv("largest |difference|", number(m.max_abs));
    kv("1 − cos, norm ratio", number(m.one_minus_cos) + ", " + number(m.norm_ratio));
    kv("elements that differ", print("%.3g %%", 100 * m.mismatch()) + " of " + std::to_string(m.values));
    if (m.nan_test + m.inf_test + m.masks_differ)
      kv("NaN, infinity", std::to_string(m.nan_test) + ", " + std::to_string(m.inf_test) +
                              "; masks differ at " + std::to_string(m.masks_differ));
    if (m.rows_differ)
      kv("rows that choose otherwise", std::to_string(m.rows_differ) + " of " + std::to_string(m.rows) +
                                           ", legal " + std::to_string(m.rows_legal));
    out_ += "</dl>";
    std::vector<std::string> tried;
    for (const hint_result& h : c.hints)
      if (!h.explains) tried.push_back(h.mistake + ": relative L2 " + number(h.rel_l2));
    list("Mistakes that do not explain it", tried, "no");
    list("Inputs that pass", c.passing_deps, "no");
    list("Inputs that are not in the dump", c.missing_deps, "no");
    out_ += "</div><div>";
    positions();
    for (const error_by_axis& a : c.by_axis) axis(a);
    experts();
    ulps();
    out_ += "</div></div></div>\n";
  }

  void positions() {
    const auto& points = r_.culprit.by_position;
    if (points.empty()) return;
    log_range y;
    double first = 1e300, last = 0;
    for (const position_error& p : points)
      y.add(p.rel_l2), first = std::min(first, double(p.position)), last = std::max(last, double(p.position));
    y.close(1e-18);
    chart c(560, 190, "error against position");
    const scale sx = c.x_scale(first, last), sy = c.y_scale(y.low, y.high, true);
    c.x_axis(sx, "position"), c.y_axis(sy, "relative L2", 5);
    std::map<index_t, std::vector<std::pair<double, double>>> lines;
    for (const position_error& p : points)
      lines[p.sequence].emplace_back(sx(double(p.position)), sy(std::max(p.rel_l2, y.low)));
    constexpr std::size_t most_dots = 600;
    for (auto& [sequence, line] : lines) {
      std::sort(line.begin(), line.end());
      // More than the width can show: the worst of each stretch.
      const std::size_t per = (line.size() + most_dots - 1) / most_dots;
      std::vector<std::pair<double, double>> shown;
      for (std::size_t i = 0; i < line.size(); i += per)
        shown.push_back(
            *std::min_element(line.begin() + static_cast<std::ptrdiff_t>(i),
                              line.begin() + static_cast<std::ptrdiff_t>(std::min(i + per, line.size())),
                              [](const auto& a, const auto& b) { return a.second < b.second; }));
      c.polyline(shown, "curve");
    }
    for (std::size_t i = 0; points.size() <= most_dots && i < points.size(); ++i)
      c.dot(sx(double(points[i].position)), sy(std::max(points[i].rel_l2, y.low)), "main", 1.8,
            "position " + std::to_string(points[i].position) + ": " + number(points[i].rel_l2));
    out_ += "<h3>Error against position</h3>" + c.done();
  }

  void axis(const error_by_axis& a) {
    if (a.share.size() < 2 || a.axis == "token" || a.axis == "position" || a.axis == "entry") return;
    constexpr std::size_t most_bars = 140;
    const std::size_t per = (a.share.size() + most_bars - 1) / most_bars;
    std::vector<double> bars((a.share.size() + per - 1) / per, 0);
    for (std::size_t i = 0; i < a.share.size(); ++i) bars[i / per] += a.share[i];
    const double high = *std::max_element(bars.begin(), bars.end());
    if (!(high > 0)) return;
    chart c(560, 120, "error by " + a.axis);
    const scale sx = c.x_scale(double(a.first), double(a.first) + double(a.share.size())),
                sy = c.y_scale(0, high);
    c.x_axis(sx, a.axis), c.y_axis(sy, "share", 3);
    for (std::size_t i = 0; i < bars.size(); ++i) {
      const double from = double(a.first) + double(i * per),
                   to = std::min(from + double(per), double(a.first) + double(a.share.size()));
      c.bar(sx(from), sy(bars[i]), sx(to) - sx(from) - (bars.size() < 70 ? 1 : 0), sy(0) - sy(bars[i]),
            "main", a.axis + " " + number(from) + ": " + number(bars[i]));
    }
    out_ += "<h3>Squared error by " + escape(a.axis) + "</h3>" + c.done();
  }

  /// One bar per expert that is used: how much of the error its tokens have.
  void experts() {
    const auto& all = r_.culprit.by_expert;
    if (all.empty()) return;
    index_t first = all.front().expert, last = first;
    for (const error_by_expert& e : all) first = std::min(first, e.expert), last = std::max(last, e.expert);
    chart c(560, 120, "error by expert");
    const scale sx = c.x_scale(double(first), double(last) + 1), sy = c.y_scale(0, 1);
    c.x_axis(sx, "expert"), c.y_axis(sy, "share", 3);
    const double wide = std::max(1.0, sx(1) - sx(0) - 1);
    for (const error_by_expert& e : all)
      c.bar(sx(double(e.expert)), sy(e.share), wide, sy(0) - sy(e.share),
            e.expert == r_.culprit.guilty_expert ? "flip" : "main",
            "expert " + std::to_string(e.expert) + ": " + number(e.share) + " of the error, " +
                std::to_string(e.wrong_rows) + " of its " + std::to_string(e.rows) + " tokens wrong");
    out_ += "<h3>Squared error of the tokens of each expert</h3>" + c.done();
  }

  void ulps() {
    const auto& bins = r_.culprit.ulp_histogram;
    const index_t most = *std::max_element(bins.begin(), bins.end());
    if (most == 0) return;
    chart c(560, 120, "scaled ulps");
    const scale sx = c.x_scale(0, double(bins.size())), sy = c.y_scale(0.5, double(most), true);
    c.y_axis(sy, "elements", 3);
    for (std::size_t i = 0; i < bins.size(); ++i) {
      const std::string name = i == 0 ? "equal" : number(std::exp2(double(i) - 4));
      if (i % 4 == 0)
        c.text(sx(double(i) + 0.5), c.height - c.bottom + 15, "tick",
               i ? number(std::exp2(double(i) - 4)) : "=", "middle");
      if (bins[i])
        c.bar(sx(double(i)) + 1, sy(double(bins[i])), sx(1) - sx(0) - 2, sy(0.5) - sy(double(bins[i])),
              i == 0 ? "quiet" : "main", name + (i ? " ulps or more: " : ": ") + std::to_string(bins[i]));
    }
    c.text((c.left + c.width - c.right) / 2, c.height - 5, "label", "scaled ulps", "middle");
    out_ += "<h3>Elements by scaled ulps</h3>" + c.done();
  }

  void routing() {
    out_ += "<h2 id=\"routing\">Routing: margin against score error</h2>\n";
    std::vector<const routing_point*> shown;
    constexpr std::size_t most = 4000;  // flips come first
    index_t flips = 0, legal = 0;
    for (const routing_point& p : r_.routing) {
      flips += p.flipped, legal += p.flipped && p.legal;
      if (shown.size() < most && p.margin >= 0) shown.push_back(&p);
    }
    if (shown.empty()) {
      out_ += "<p class=\"empty\">No choices with margins were compared.</p>\n";
      return;
    }
    log_range x, y;
    for (const routing_point* p : shown) x.add(p->margin), y.add(p->score_error);
    x.close(1e-12), y.close(1e-18);
    chart c(580, 300, "routing");
    const scale sx = c.x_scale(x.low, x.high, true), sy = c.y_scale(y.low, y.high, true);
    c.x_axis(sx, "margin of the golden's choice"), c.y_axis(sy, "largest score error of the token");
    // margin = 2 error: to its right no flip is legal.
    const double low = std::max(x.low, 2 * y.low), high = std::min(x.high, 2 * y.high);
    if (low < high) c.line(sx(low), sy(low / 2), sx(high), sy(high / 2), "rule");
    for (std::size_t i = shown.size(); i-- > 0;) {
      const routing_point& p = *shown[i];
      c.dot(sx(std::max(p.margin, x.low)), sy(std::max(p.score_error, y.low)),
            !p.flipped ? "quiet"
            : p.legal  ? "legal"
                       : "flip",
            p.flipped ? 3.4 : 2,
            p.flipped ? p.name + ", position " + std::to_string(p.position) + ": margin " + number(p.margin) +
                            ", error " + number(p.score_error)
                      : "");
    }
    out_ += c.done() +
            "<div class=\"legend\"><span><i style=\"background:#98a3b0\"></i>same choice</span><span><i "
            "style=\"background:#e08a00\"></i>flip, legal: " +
            std::to_string(legal) +
            "</span><span><i style=\"background:var(--bad)\"></i>flip beyond its margin: " +
            std::to_string(flips - legal) + "</span><span>dashed: margin = 2 × error</span>" +
            (r_.routing.size() > shown.size() ? "<span>" + std::to_string(shown.size()) + " of " +
                                                    std::to_string(r_.routing.size()) + " drawn</span>"
                                              : "") +
            "</div>\n";
  }

  void logits() {
    out_ += "<h2 id=\"logits\">Logits: KL by position</h2>\n";
    if (r_.logits.empty()) {
      out_ += "<p class=\"empty\">No logits were compared.</p>\n";
      return;
    }
    const logits_summary& s = r_.logits_total;
    log_range y;
    double first = 1e300, last = 0;
    for (const logits_point& p : r_.logits)
      y.add(p.kl), first = std::min(first, double(p.position)), last = std::max(last, double(p.position));
    y.close(1e-18);
    chart c(580, 300, "KL by position");
    const scale sx = c.x_scale(first, last), sy = c.y_scale(y.low, y.high, true);
    c.x_axis(sx, "position"), c.y_axis(sy, "KL(golden ‖ test)");
    constexpr std::size_t most = 6000;
    const std::size_t every = (r_.logits.size() + most - 1) / most;
    for (std::size_t i = 0; i < r_.logits.size(); ++i) {
      const logits_point& p = r_.logits[i];
      if (i % every != 0 && p.top1_equal) continue;
      c.dot(sx(double(p.position)), sy(std::max(p.kl, y.low)), p.top1_equal ? "main" : "flip",
            p.top1_equal ? 2 : 3.2,
            p.name + ", position " + std::to_string(p.position) + ": KL " + number(p.kl) +
                (p.top1_equal ? "" : ", another best token"));
    }
    out_ += c.done() + "<div class=\"legend\"><span>mean " + number(s.kl_mean) + "</span><span>99.9 % " +
            number(s.kl_p999) + "</span><span>max " + number(s.kl_max) + " at " +
            std::to_string(s.kl_max_position) + "</span><span>same best token " +
            print("%.4g %%", 100 * s.top1) + "</span><span>Δ NLL " + number(s.delta_nll_mean) +
            "</span><span>NMSE " + number(s.nmse) + "</span></div>\n";
  }

  void row(std::size_t i, bool with_id) {
    const tensor_result& t = r_.tensors[i];
    out_ += with_id ? "<tr id=\"t" + std::to_string(i) + "\">" : "<tr>";
    out_ += "<td class=\"name\">" + escape(t.name, 300) + "</td><td><span class=\"v " +
            std::string(name_of(t.v)) + "\">" + std::string(name_of(t.v)) + "</span></td><td class=\"n\">" +
            std::to_string(t.step) + "</td><td class=\"n\">" + std::to_string(t.from) + "–" +
            std::to_string(t.to) + "</td><td class=\"n\">" + number(t.severity) + "</td><td class=\"n\">" +
            number(t.m.rel_l2) + "</td><td class=\"n\">" + number(t.m.max_abs) + "</td><td class=\"n\">" +
            (t.noise > 0 ? number(t.noise) : "") + "</td><td class=\"why\">" + escape(t.why, 400) +
            "</td></tr>\n";
  }
  void tables() {
    constexpr const char* heads =
        "<table><tr><th>tensor</th><th>verdict</th><th class=\"n\">step</th><th "
        "class=\"n\">positions</th><th class=\"n\">error/allowed</th><th class=\"n\">rel. L2</th><th "
        "class=\"n\">max abs</th><th class=\"n\">noise</th><th>why</th></tr>\n";
    std::vector<std::size_t> order(r_.tensors.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      const tensor_result &x = r_.tensors[a], &y = r_.tensors[b];
      return std::pair(rank_of(x.v), x.severity) > std::pair(rank_of(y.v), y.severity);
    });
    constexpr std::size_t most_worst = 30, most_all = 20000;
    out_ += "<h2 id=\"worst\">Worst first</h2>\n<div class=\"over\">" + std::string(heads);
    for (std::size_t i = 0; i < std::min(order.size(), most_worst); ++i) row(order[i], false);
    out_ += "</table></div>\n<h2 id=\"all\">In the order of execution</h2>\n<details open><summary>" +
            std::to_string(r_.tensors.size()) + " recordings" +
            (r_.tensors.size() > most_all ? ", the first " + std::to_string(most_all) : "") +
            "</summary><div class=\"over\">" + heads;
    for (std::size_t i = 0; i < std::min(r_.tensors.size(), most_all); ++i) row(i, true);
    out_ += "</table></div></details>\n";
  }

  const verify_result& r_;
  std::string out_;
};

}  // namespace html

DSV4_INLINE std::string html_report(const verify_result& r) { return html::page(r).text(); }

}  // namespace dsv4::golden
