// SPDX-License-Identifier: MIT
// The page: everything is there, it is well-formed and self-contained, and nothing in a result can run.
#include "dsv4/golden/report/report_html.hpp"
#include "dsv4/golden/report/html.hpp"

#include "catch.hpp"
#include "synthetic_result.hpp"

namespace dsv4_test {

using namespace dsv4;
using Catch::Matchers::ContainsSubstring;

namespace {

/// Every element is closed, in order; attributes are quoted.  Returns what is wrong, or nothing.
std::string malformed(const std::string& page) {
  std::vector<std::string> open;
  for (std::size_t at = page.find('<'); at != page.npos; at = page.find('<', at)) {
    if (page.compare(at, 7, "<style>") == 0) {
      at = page.find("</style>", at);
      if (at == page.npos) return "style is not closed";
      at += 8;
      continue;
    }
    std::size_t end = at + 1;
    for (bool quoted = false; end < page.size() && (quoted || page[end] != '>'); ++end) {
      if (page[end] == '"') quoted = !quoted;
      if (page[end] == '<') return "'<' inside a tag: " + page.substr(at, 80);
    }
    if (end == page.size()) return "a tag without end: " + page.substr(at, 80);
    const std::string tag = page.substr(at + 1, end - at - 1),
                      name = tag.substr(tag[0] == '/', tag.find(' ') - (tag[0] == '/'));
    at = end;
    if (tag[0] == '!' || tag.back() == '/' || name == "meta") continue;
    if (tag[0] != '/') {
      open.push_back(name);
    } else if (open.empty() || open.back() != name) {
      return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back() + " is not closed";
}

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++n;
  return n;
}

}  // namespace

TEST_CASE("html: the page tells everything") {
  const auto r = synthetic_result();
  const std::string page = golden::html_report(r);
  CHECK(malformed(page).empty());
  CHECK(page == golden::html_report(r));  // deterministic
  CHECK_THAT(page,
             ContainsSubstring("<span class=\"badge bad\">FAIL</span> layers.2.attn.q_rope is wrong first"));
  CHECK_THAT(page, ContainsSubstring(golden::html::escape(r.statement)));
  CHECK_THAT(page, ContainsSubstring("First wrong tensor: <code>layers.2.attn.q_rope</code>"));
  CHECK_THAT(page, ContainsSubstring("token 133, head 5, channel 17"));
  CHECK_THAT(page, ContainsSubstring("rope_other_theta"));
  CHECK_THAT(page, ContainsSubstring("all errors in channels 16-31"));
  for (const char* title : {"error against position", "error by head", "error by channel", "error by expert",
                            "scaled ulps", "layer by site", "routing", "KL by position"})
    CHECK_THAT(page, ContainsSubstring("<title>" + std::string(title) + "</title>"));
  // Every recording has its row, every cell of the map leads to one.
  CHECK(count(page, "<tr id=\"t") == r.tensors.size());
  CHECK(count(page, "<a href=\"#t") == r.tensors.size());
  // Self-contained.
  CHECK(count(page, "<script") == 0);
  CHECK(count(page, "src=") == 0);
  CHECK(count(page, "http://") + count(page, "https://") == 0);
  CHECK_THAT(page, ContainsSubstring("default-src 'none'"));
}

TEST_CASE("html: hostile names are shown, not run") {
  auto r = synthetic_result(3, 20);
  const std::string hostile =
      "\"><script>alert(1)</script><img src=x onerror=alert(1)>&'\x01\xE2\x80\xAE"
      "evil";
  r.golden = r.test = r.summary = r.statement = r.numerics = hostile;
  r.notes = {hostile}, r.structure = {{2, hostile}};
  for (auto& t : r.tensors)
    t.name += hostile, t.site += hostile, t.scope = "layers.0" + hostile, t.why = hostile;
  auto& c = r.culprit;
  c.axes = {hostile}, c.patterns = c.passing_deps = c.missing_deps = {hostile};
  for (auto& a : c.by_axis) a.axis = hostile;
  for (auto& h : c.hints) h.mistake = h.says = hostile;
  for (auto& p : r.routing) p.name = hostile;
  for (auto& p : r.logits) p.name = hostile;
  const std::string page = golden::html_report(r);
  CHECK(malformed(page).empty());
  CHECK(count(page, "<script") == 0);
  CHECK(count(page, "<img") == 0);
  CHECK(count(page, "\x01") == 0);
  CHECK(count(page, "\xE2\x80\xAE") == 0);
}

TEST_CASE("html: a name of megabytes does not make a page of gigabytes") {
  auto r = synthetic_result(3, 20);
  for (auto& t : r.tensors) t.name = std::string(1 << 20, '<');
  CHECK(golden::html_report(r).size() < (1 << 24));
}

TEST_CASE("html: empty, passing and extreme results") {
  golden::verify_result r;
  CHECK(malformed(golden::html_report(r)).empty());
  CHECK_THAT(golden::html_report(r), ContainsSubstring("Nothing was compared"));
  r = synthetic_result(1, 1);
  r.culprit = {}, r.exit_code = 0, r.summary = "PASS: 30 tensors";
  CHECK_THAT(golden::html_report(r), ContainsSubstring("badge good\">PASS</span> 30 tensors"));
  constexpr double inf = std::numeric_limits<double>::infinity(),
                   nan = std::numeric_limits<double>::quiet_NaN();
  r = synthetic_result(4, 30);
  r.culprit.at = 1 << 30;  // not one of the tensors: no panel, no crash
  CHECK(malformed(golden::html_report(r)).empty());
  r = synthetic_result(4, 30);
  for (const double x : {inf, -inf, nan, 0.0, 1e308, 1e-308, -1.0}) {
    for (auto& t : r.tensors) t.severity = t.m.rel_l2 = t.m.max_abs = t.noise = x;
    for (auto& p : r.culprit.by_position) p.rel_l2 = x;
    for (auto& a : r.culprit.by_axis) a.share.assign(a.share.size(), x);
    for (auto& e : r.culprit.by_expert) e.share = x;
    for (auto& p : r.routing) p.margin = p.score_error = x;
    for (auto& p : r.logits) p.kl = x;
    const std::string page = golden::html_report(r);
    CHECK(malformed(page).empty());
    CHECK(count(page, "=\"nan") + count(page, "=\"-nan") + count(page, "=\"inf") + count(page, "=\"-inf") ==
          0);
  }
}

}  // namespace dsv4_test
