// SPDX-License-Identifier: MIT
#pragma once
/// One line on a terminal that says how far a long run is; nothing in a pipe, nothing for short runs.
#include <chrono>
#include <cstdio>

#include <unistd.h>
#include <dsv4/core/view.hpp>

namespace cli {

class progress {
 public:
  progress() : terminal_(isatty(STDERR_FILENO) != 0) {}
  ~progress() { clear(); }
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;

  void operator()(const char* what, dsv4::index_t done, dsv4::index_t total, const char* unit = "tokens") {
    using namespace std::chrono_literals;
    const auto now = clock::now();
    // Quiet for the first second, then ten times a second.
    if (!terminal_ || now - begin_ < 1s || (now - last_ < 100ms && done < total)) return;
    last_ = now;
    constexpr dsv4::index_t width = 30;
    const auto filled = static_cast<int>(total > 0 ? width * done / total : 0);
    std::fprintf(stderr, "\r%s [%.*s%*s] %lld of %lld %s \x1b[K", what, filled,
                 "##############################", static_cast<int>(width) - filled, "",
                 static_cast<long long>(done), static_cast<long long>(total), unit);
    drawn_ = true;
  }
  void clear() {
    if (drawn_) std::fputs("\r\x1b[K", stderr);
    drawn_ = false;
  }

 private:
  using clock = std::chrono::steady_clock;
  bool terminal_, drawn_ = false;
  clock::time_point begin_ = clock::now(), last_{};
};

}  // namespace cli
