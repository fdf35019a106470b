// SPDX-License-Identifier: MIT
#pragma once
/// Ctrl-C as a question that a running answer asks itself, instead of the end of the program.
#include <csignal>

namespace cli {

/// While one lives, SIGINT sets a flag and interrupts a read from the terminal.
class interrupt_guard {
 public:
  interrupt_guard() {
    struct sigaction now {};
    now.sa_handler = [](int) { flag_ = 1; };
    sigemptyset(&now.sa_mask);
    now.sa_flags = 0;  // no SA_RESTART: a read returns
    sigaction(SIGINT, &now, &before_);
  }
  ~interrupt_guard() { sigaction(SIGINT, &before_, nullptr); }
  interrupt_guard(const interrupt_guard&) = delete;
  interrupt_guard& operator=(const interrupt_guard&) = delete;

  bool pressed() const { return flag_ != 0; }
  /// Was it pressed since the last time?
  bool take() {
    const bool was = flag_ != 0;
    flag_ = 0;
    return was;
  }

 private:
  inline static volatile std::sig_atomic_t flag_ = 0;
  struct sigaction before_ {};
};

}  // namespace cli
