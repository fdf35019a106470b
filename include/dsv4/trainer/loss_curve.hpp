// SPDX-License-Identifier: MIT
#pragma once
/// Loss against steps as a picture (SVG): one or more runs, each with the loss of its batches, smoothed, and that of
/// the held-out part.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/format_text.hpp"
#include "../core/view.hpp"

namespace dsv4::trainer {

struct loss_curve {
  std::string name;
  std::vector<std::pair<double, double>> train, held_out;  // (step, nats per token)
};

namespace detail {

inline std::string text_of(double v) { return format_text("%.4g", v); }
inline std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text)
    out += c == '<'   ? "&lt;"
           : c == '>' ? "&gt;"
           : c == '&' ? "&amp;"
           : c == '"' ? "&quot;"
                      : std::string(1, c);
  return out;
}
/// 1, 2 or 5 times a power of ten: about `wanted` of them in `range`.
inline double tick_step(double range, double wanted) {
  const double raw = range / wanted, ten = std::pow(10, std::floor(std::log10(raw)));
  for (const double step : {1.0, 2.0, 5.0})
    if (raw <= step * ten) return step * ten;
  return 10 * ten;
}
/// Running mean over about `memory` points.
inline std::vector<std::pair<double, double>> smoothed(const std::vector<std::pair<double, double>>& points,
                                                       double memory) {
  std::vector<std::pair<double, double>> out;
  double mean = 0;
  for (std::size_t i = 0; i < points.size(); ++i) {
    mean += (points[i].second - mean) / std::min(static_cast<double>(i + 1), memory);
    out.emplace_back(points[i].first, mean);
  }
  return out;
}

}  // namespace detail

inline std::string draw(const std::vector<loss_curve>& curves, const std::string& title = "loss") {
  constexpr double width = 860, height = 480, left = 70, right = 20, top = 40, bottom = 50;
  constexpr std::array<const char*, 4> colours{"#1f5fa8", "#b8442c", "#2c7a3f", "#7a4fa0"};
  // Ranges: all held-out points, and training points but for the highest first ones.
  double last = 1, low = 1e300, high = -1e300;
  for (const loss_curve& c : curves)
    for (const auto* points : {&c.train, &c.held_out})
      for (const auto& [x, y] : *points)
        if (std::isfinite(y)) {
          last = std::max(last, x);
          low = std::min(low, y);
          high = std::max(high, y);
        }
  if (low > high) low = 0, high = 1;
  if (high - low < 1e-3) high = low + 1e-3;
  const double step = detail::tick_step(high - low, 8);
  low = std::floor(low / step) * step;
  high = std::ceil(high / step) * step;
  const auto px = [&](double x) { return left + (width - left - right) * x / last; };
  const auto py = [&](double y) { return top + (height - top - bottom) * (high - y) / (high - low); };

  std::string out;
  const auto put = [&](const char* format, auto... values) { out += format_text(format, values...); };
  put("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" font-family=\"sans-serif\" "
      "font-size=\"13\">\n",
      width, height);
  put("<rect width=\"%g\" height=\"%g\" fill=\"white\"/>\n", width, height);
  out += "<text x=\"70\" y=\"24\" font-size=\"15\">" + detail::escaped(title) + "</text>\n";
  for (double y = low; y <= high + step / 2; y += step) {
    put("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>", left, width - right,
        py(y), py(y));
    put("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", left - 8, py(y) + 4,
        detail::text_of(std::abs(y) < step / 2 ? 0 : y).c_str());
  }
  const double step_x = detail::tick_step(last, 8);
  for (double x = 0; x <= last + step_x / 1e6; x += step_x) {
    put("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>", px(x), px(x), top,
        height - bottom);
    put("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", px(x), height - bottom + 18,
        detail::text_of(x).c_str());
  }
  put("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">step</text>\n", (left + width - right) / 2,
      height - 10);
  put("<text transform=\"translate(18 %.1f) rotate(-90)\" text-anchor=\"middle\">nats per token</text>\n",
      (top + height - bottom) / 2);

  const auto line = [&](const std::vector<std::pair<double, double>>& points, const char* style) {
    // At most so many points: more cannot be seen.
    constexpr std::size_t most = 2000;
    const std::size_t stride = std::max<std::size_t>(1, points.size() / most);
    out += "<polyline fill=\"none\" " + std::string(style) + " points=\"";
    for (std::size_t i = 0; i < points.size(); ++i)
      if ((i % stride == 0 || i + 1 == points.size()) && std::isfinite(points[i].second))
        put("%.1f,%.1f ", px(points[i].first), py(points[i].second));
    out += "\"/>\n";
  };
  double legend = top + 14;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const loss_curve& c = curves[i];
    const std::string colour = "stroke=\"" + std::string(colours[i % colours.size()]) + "\" ";
    constexpr double memory = 30;
    line(c.train, (colour + "stroke-opacity=\"0.2\"").c_str());
    line(detail::smoothed(c.train, memory), (colour + "stroke-width=\"1.6\"").c_str());
    line(c.held_out, (colour + "stroke-width=\"2\" stroke-dasharray=\"6 4\"").c_str());
    const auto entry = [&](const std::string& what, const std::string& dash) {
      const double x = width - right - 270;
      put("<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke-width=\"2\" %s%s/>", x, x + 28,
          legend - 4, legend - 4, colour.c_str(), dash.c_str());
      out += "<text x=\"" + detail::text_of(x + 36) + "\" y=\"" + detail::text_of(legend) + "\">" +
             detail::escaped(what) + "</text>\n";
      legend += 18;
    };
    entry(c.name + " training (mean of 30)", "");
    if (!c.held_out.empty())
      entry(c.name + " held-out " + detail::text_of(c.held_out.back().second), "stroke-dasharray=\"6 4\"");
  }
  return out + "</svg>\n";
}

}  // namespace dsv4::trainer
