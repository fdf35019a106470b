// SPDX-License-Identifier: MIT
#pragma once
/// Text that comes piece by piece, up to the first place where it spells a stop text.
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cli {

class stop_texts {
 public:
  explicit stop_texts(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// What can be shown now.  An end that may be the beginning of a stop text waits for what follows.
  std::string push(std::string_view part) {
    if (found_) return {};
    waiting_ += part;
    std::size_t at = std::string::npos, kept = 0;
    for (const std::string& stop : stops_) {
      if (const std::size_t here = waiting_.find(stop); here < at) {
        at = here;
        which_ = static_cast<std::size_t>(&stop - stops_.data());
      }
      for (std::size_t n = std::min(stop.size() - 1, waiting_.size()); n > kept; --n)
        if (std::string_view(waiting_).ends_with(std::string_view(stop).substr(0, n))) kept = n;
    }
    found_ = at != std::string::npos;
    std::string out = waiting_.substr(0, found_ ? at : waiting_.size() - kept);
    waiting_.erase(0, found_ ? waiting_.size() : out.size());
    return out;
  }
  /// What waited, at the end of the text.
  std::string finish() { return std::exchange(waiting_, {}); }
  bool found() const { return found_; }
  /// The stop text that was found, by its place in the list.
  std::size_t which() const { return which_; }

 private:
  std::vector<std::string> stops_;
  std::string waiting_;
  std::size_t which_ = 0;
  bool found_ = false;
};

}  // namespace cli
