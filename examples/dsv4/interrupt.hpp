// SPDX-License-Identifier: MIT
#pragma once
/// Ctrl-C as a question that a running answer asks itself, instead of the end of the program.
#include <poll.h>
#include <csignal>

namespace cli {

/// While one lives, SIGINT sets a flag and ends a wait for input.
class interrupt_guard {
 public:
  interrupt_guard() {
    struct sigaction now {};
    now.sa_handler = [](int) { flag_ = 1; };
    sigemptyset(&now.sa_mask);
    now.sa_flags = 0;  // no SA_RESTART: a wait ends
    sigaction(SIGINT, &now, &before_);
  }
  ~interrupt_guard() { sigaction(SIGINT, &before_, nullptr); }
  interrupt_guard(const interrupt_guard&) = delete;
  interrupt_guard& operator=(const interrupt_guard&) = delete;

  bool pressed() const { return flag_ != 0; }
  /// Waits until there is something to read; false if Ctrl-C came first, also just before.
  bool wait_for_input(int file) {
    sigset_t interrupt, before;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_BLOCK, &interrupt, &before);  // from here on only ppoll lets it in
    pollfd input{file, POLLIN, 0};
    const bool ready = flag_ == 0 && ppoll(&input, 1, nullptr, &before) >= 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return ready;
  }
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
