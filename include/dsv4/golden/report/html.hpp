// SPDX-License-Identifier: MIT
#pragma once
/// Small pieces of a page: escaped text, short numbers, and charts as inline SVG.  Nothing here knows what
/// a verification is (report_html.hpp does).
/// Everything that comes from a file passes through `escape`: the page can show a hostile name, not run it.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "../../core/format_text.hpp"
#include "../../core/view.hpp"

namespace dsv4::golden::html {

/// Text for element content and quoted attributes.  Control characters and those that turn the direction
/// of writing (U+202A to 202E, U+2066 to 2069) become '?', and at most `most` bytes are shown.
inline std::string escape(std::string_view text, std::size_t most = 4096) {
  std::string out;
  const std::string_view shown = text.substr(0, most);
  for (std::size_t i = 0; i < shown.size(); ++i) {
    const auto c = static_cast<unsigned char>(shown[i]);
    if (c == 0xE2 && i + 2 < shown.size()) {
      const auto b = static_cast<unsigned char>(shown[i + 1]), a = static_cast<unsigned char>(shown[i + 2]);
      if ((b == 0x80 && a >= 0xAA && a <= 0xAE) || (b == 0x81 && a >= 0xA6 && a <= 0xA9)) {
        out += '?', i += 2;
        continue;
      }
    }
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c < 0x20 || c == 0x7F ? '?' : static_cast<char>(c);
    }
  }
  if (text.size() > most) out += "…";
  return out;
}

/// Numbers in the notation of CSS and SVG; the format is the program's own.
template <class... T>
std::string print(const char* format, T... values) {
  return format_text(format, values...);
}
/// Three digits; whole numbers below a million in full.
inline std::string number(double v) {
  if (std::isnan(v)) return "NaN";
  if (std::isinf(v)) return v > 0 ? "∞" : "−∞";
  constexpr double in_full = 1e6;
  if (v == std::floor(v) && std::fabs(v) < in_full) return print("%.0f", v == 0 ? 0 : v);
  std::string s = print("%.3g", v);
  if (const auto e = s.find("e+0"); e != s.npos) s.erase(e + 1, 2);  // 4.1e+06 -> 4.1e6
  if (const auto e = s.find("e-0"); e != s.npos) s.erase(e + 2, 1);
  return s;
}

/// #rrggbb between two colours, t in [0, 1].
inline std::string mix(std::array<int, 3> a, std::array<int, 3> b, double t) {
  const auto at = [&](std::size_t i) {
    return static_cast<int>(std::lround(a[i] + (b[i] - a[i]) * std::clamp(t, 0.0, 1.0)));
  };
  return print("#%02x%02x%02x", at(0), at(1), at(2));
}

/// One axis of a chart: values, their place, and where the ticks are.
class scale {
 public:
  scale(double low, double high, double from, double to, bool log)
      : low_(low), high_(high), from_(from), to_(to), log_(log) {
    if (log_) low_ = std::log10(low_), high_ = std::log10(high_);
    constexpr double most = 1e300;  // no number of the result breaks the page
    if (!(std::fabs(low_) < most)) low_ = 0;
    if (!(high_ > low_ && high_ < most)) high_ = low_ + 1;
  }
  double operator()(double v) const {
    const double x = log_ ? std::log10(v) : v;
    if (std::isnan(x)) return from_;
    return from_ + (std::clamp(x, low_, high_) - low_) / (high_ - low_) * (to_ - from_);
  }
  /// Value and label.
  std::vector<std::pair<double, std::string>> ticks(int about) const {
    std::vector<std::pair<double, std::string>> out;
    constexpr double finest = 1e-9;  // below, steps are lost in the values
    if (high_ - low_ < finest * std::max(std::fabs(low_), std::fabs(high_)) || high_ - low_ < 1e-300)
      return out;
    if (log_) {
      const double first = std::ceil(low_ - 1e-9), last = std::floor(high_ + 1e-9),
                   step = std::max(1.0, std::ceil((last - first + 1) / about));
      for (double e = first; e <= last; e += step)
        out.emplace_back(std::pow(10, e), e == 0 ? "1" : print("1e%.0f", e));
      return out;
    }
    double step = std::pow(10, std::floor(std::log10((high_ - low_) / about)));
    for (const double m : {1.0, 2.0, 5.0, 10.0})
      if ((high_ - low_) / (step * m) <= about) {
        step *= m;
        break;
      }
    for (double v = std::ceil(low_ / step) * step; v <= high_ + step * 1e-9; v += step)
      out.emplace_back(v, number(std::fabs(v) < step * 1e-9 ? 0 : v));
    return out;
  }

 private:
  double low_, high_, from_, to_;
  bool log_;
};

/// The smallest range of powers of ten around the positive values; at least three of them.
class log_range {
 public:
  void add(double v) {
    constexpr double most = 1e300;
    if (!(v > 0 && v < most)) return;
    low = std::min(low, v), high = std::max(high, v);
  }
  bool empty() const { return high == 0; }
  void close(double floor) {
    if (empty()) low = floor, high = 1;
    high = std::pow(10, std::ceil(std::log10(high) + 1e-9));
    low = std::max(floor, std::pow(10, std::floor(std::log10(low))));
    if (low > high * 1e-3) low = high * 1e-3;
  }
  double low = 1e300, high = 0;
};

/// Frame, grid and labels around a plot of its own.
class chart {
 public:
  double width, height, left = 54, right = 12, top = 10, bottom = 38;

  chart(double w, double h, const std::string& title) : width(w), height(h) {
    out_ = print("<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" class=\"chart\" style=\"max-width:%.0fpx\">", w,
                 h, w) +
           "<title>" + escape(title) + "</title>";
  }
  scale x_scale(double low, double high, bool log = false) const {
    return {low, high, left, width - right, log};
  }
  scale y_scale(double low, double high, bool log = false) const {
    return {low, high, height - bottom, top, log};
  }

  void x_axis(const scale& x, const std::string& label, int about = 8) {
    for (const auto& [v, text] : x.ticks(about)) {
      out_ += print(
          "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/><text class=\"tick\" x=\"%.1f\" y=\"%.1f\" "
          "text-anchor=\"middle\">",
          x(v), top, height - bottom, x(v), height - bottom + 15);
      out_ += escape(text) + "</text>";
    }
    out_ += print("<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">",
                  (left + width - right) / 2, height - 5) +
            escape(label) + "</text>";
  }
  void y_axis(const scale& y, const std::string& label, int about = 6) {
    for (const auto& [v, text] : y.ticks(about)) {
      out_ += print(
          "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/><text class=\"tick\" x=\"%.1f\" y=\"%.1f\" "
          "text-anchor=\"end\">",
          left, y(v), width - right, left - 5, y(v) + 4);
      out_ += escape(text) + "</text>";
    }
    out_ += print("<text class=\"label\" transform=\"translate(12 %.1f)rotate(-90)\" text-anchor=\"middle\">",
                  (top + height - bottom) / 2) +
            escape(label) + "</text>";
  }
  void dot(double x, double y, const char* cls, double radius, const std::string& title = {}) {
    out_ += print("<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"", cls, x, y, radius);
    out_ += title.empty() ? "/>" : "><title>" + escape(title) + "</title></circle>";
  }
  void bar(double x, double y, double w, double h, const char* cls, const std::string& title = {}) {
    out_ += print("<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"", cls, x, y,
                  std::max(w, 0.5), std::max(h, 0.0));
    out_ += title.empty() ? "/>" : "><title>" + escape(title) + "</title></rect>";
  }
  void line(double x0, double y0, double x1, double y1, const char* cls) {
    out_ += print("<path class=\"%s\" d=\"M%.1f %.1fL%.1f %.1f\"/>", cls, x0, y0, x1, y1);
  }
  void text(double x, double y, const char* cls, const std::string& what, const char* anchor = "start") {
    out_ += print("<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", cls, x, y, anchor) +
            escape(what) + "</text>";
  }
  /// A line through points, left to right.
  void polyline(const std::vector<std::pair<double, double>>& points, const char* cls) {
    if (points.empty()) return;
    out_ += print("<polyline class=\"%s\" points=\"", cls);
    for (const auto& [x, y] : points) out_ += print("%.1f,%.1f ", x, y);
    out_ += "\"/>";
  }
  void raw(const std::string& trusted) { out_ += trusted; }
  std::string done() const { return out_ + "</svg>"; }

 private:
  std::string out_;
};

}  // namespace dsv4::golden::html
