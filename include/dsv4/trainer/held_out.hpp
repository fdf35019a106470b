// SPDX-License-Identifier: MIT
#pragma once
/// The part of a text that training never sees: its end, from a line break on.
#include <algorithm>
#include <string>
#include <string_view>

#include "../core/contract.hpp"

namespace dsv4::trainer {

/// train + held_out is the text.
struct text_split {
  std::string_view train, held_out;
};

/// The last `fraction` of the bytes, less what is before the next line break: `held_out` begins a line, `train` ends
/// with a line break.  Without a line break after the cut nothing is held out.  @throws contract_violation unless
/// 0 <= fraction <= 1
inline text_split split_text(std::string_view text, double fraction) {
  expects(fraction >= 0 && fraction <= 1,
          "split_text: a fraction between 0 and 1, got " + std::to_string(fraction));
  const auto held_out = static_cast<std::size_t>(fraction * static_cast<double>(text.size()));
  std::size_t cut = text.size() - std::min(held_out, text.size());
  if (cut > 0 && cut < text.size()) {
    // A cut just after a line break is a good one.
    const std::size_t line_break = text.find('\n', cut - 1);
    cut = line_break == std::string_view::npos ? text.size() : line_break + 1;
  }
  return {text.substr(0, cut), text.substr(cut)};
}

}  // namespace dsv4::trainer
