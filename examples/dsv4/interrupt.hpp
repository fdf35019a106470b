// SPDX-License-Identifier: MIT
#pragma once
/// Ctrl-C as a question that a running answer asks itself, instead of the end of the program.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <system_error>

namespace cli {

/// While one lives, SIGINT sets a flag and ends a wait for input.  There may be one at a time.
class interrupt_guard {
 public:
  interrupt_guard() {
    if (::pipe2(pipe_, O_CLOEXEC | O_NONBLOCK) != 0)
      throw std::system_error(errno, std::generic_category(), "pipe");
    struct sigaction now {};
    now.sa_handler = [](int) {
      const int kept = errno;
      flag_ = 1;
      [[maybe_unused]] const auto written =
          ::write(pipe_[1], "", 1);  // wakes a wait, whichever thread got the signal
      errno = kept;
    };
    sigemptyset(&now.sa_mask);
    now.sa_flags = SA_RESTART;
    sigaction(SIGINT, &now, &before_);
  }
  ~interrupt_guard() {
    sigaction(SIGINT, &before_, nullptr);
    ::close(pipe_[0]);
    ::close(pipe_[1]);
  }
  interrupt_guard(const interrupt_guard&) = delete;
  interrupt_guard& operator=(const interrupt_guard&) = delete;

  bool pressed() const { return flag_ != 0; }
  /// Was it pressed since the last time?
  bool take() {
    char byte;
    while (::read(pipe_[0], &byte, 1) > 0) {
    }
    const bool was = flag_ != 0;
    flag_ = 0;
    return was;
  }
  /// Waits until there is something to read; false if Ctrl-C came first.
  bool wait_for_input(int file) {
    pollfd events[] = {{file, POLLIN, 0}, {pipe_[0], POLLIN, 0}};
    while (::poll(events, 2, -1) < 0 && errno == EINTR) {
    }
    return events[1].revents == 0;
  }

 private:
  inline static volatile std::sig_atomic_t flag_ = 0;
  inline static int pipe_[2] = {-1, -1};
  struct sigaction before_ {};
};

}  // namespace cli
