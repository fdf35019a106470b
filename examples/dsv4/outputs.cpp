// SPDX-License-Identifier: MIT
#include "outputs.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>

#include <dsv4/core/error.hpp>
#include <dsv4/io/atomic_file.hpp>
#include <dsv4/io/open_files.hpp>

namespace cli {
namespace {

namespace fs = std::filesystem;
using dsv4::io::open_files;

int bus_error_code = 1;

/// For signal handlers.
void tell(std::initializer_list<const char*> parts) {
  for (const char* part : parts) [[maybe_unused]]
    const auto written = ::write(STDERR_FILENO, part, std::strlen(part));
}

void end_by(int signal) {
  open_files::remove_begun();
  std::signal(signal, SIG_DFL);
  std::raise(signal);  // so that whoever waits sees what ended the program
}

void end_by_bus_error(int signal, siginfo_t* info, void*) {
  const char* file = open_files::mapped_at(info->si_addr);
  if (!file) return end_by(signal);
  open_files::remove_begun();
  tell({"dsv4: ", file, ": was cut short, or could not be read, while it was in use\n"});
  ::_exit(bus_error_code);
}

/// Why standard output failed.  Known if it failed where it was asked, in output_arrives; not if printf had to write
/// in between, which keeps that it failed and not why.
int output_reason = 0;
std::string text_of_reason() {
  return output_reason ? dsv4::io::detail::reason(output_reason) : "a part of it was refused";
}

}  // namespace

void begin_program(int code_of_bad_file) {
  // In the place of a closed stream stands one that fails; standard error swallows what nobody wants to see.
  constexpr std::array<int, 3> instead{O_WRONLY, O_RDONLY, O_WRONLY};
  for (int fd = 0; fd < static_cast<int>(instead.size()); ++fd)
    if (::fcntl(fd, F_GETFD) < 0) [[maybe_unused]]
      const int opened =
          ::open("/dev/null", instead[static_cast<std::size_t>(fd)]);  // the lowest free number: fd

  bus_error_code = code_of_bad_file;
  struct sigaction now {};
  sigemptyset(&now.sa_mask);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    struct sigaction before {};
    now.sa_handler = end_by;
    // nohup and the shells' background jobs ignore some.
    if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_DFL)
      sigaction(signal, &now, nullptr);
  }
  // A write beyond the limit of a file's size is an error with a message instead.
  now.sa_handler = SIG_IGN;
  sigaction(SIGXFSZ, &now, nullptr);
  now.sa_sigaction = end_by_bus_error;
  now.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &now, nullptr);
}

void print_text(const std::string& text) {
  errno = 0;
  const bool written = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  if (!written && output_reason == 0) output_reason = errno;
}

bool output_arrives() {
  // std::cout writes through stdout and has no buffer of its own.
  const bool failed_before = std::ferror(stdout) != 0 || !std::cout.good();
  errno = 0;
  if (std::fflush(stdout) != 0 && !failed_before) output_reason = errno;
  return !std::ferror(stdout) && std::cout.good();
}

void check_output_arrives() {
  if (!output_arrives()) throw dsv4::error("standard output cannot be written: " + text_of_reason());
}

int end_program(int code, int failed, int code_of_bad_file) {
  if (!output_arrives()) {
    std::fprintf(stderr, "dsv4: standard output cannot be written: %s\n", text_of_reason().c_str());
    if (code == 0) code = failed;
  } else if (::close(STDOUT_FILENO) != 0 && errno != EBADF) {  // some file systems tell only now
    std::fprintf(stderr, "dsv4: standard output cannot be written: %s\n",
                 dsv4::io::detail::reason(errno).c_str());
    if (code == 0) code = failed;
  }
  if (const std::string changed = open_files::first_changed(); !changed.empty() && code == 0) {
    std::fprintf(stderr, "dsv4: %s: was changed while it was read: what was made of it may be wrong\n",
                 changed.c_str());
    code = code_of_bad_file;
  }
  std::fflush(stderr);
  if (code == 0 && std::ferror(stderr)) code = failed;  // and nobody can be told
  return code;
}

void check_output_file(const std::string& option, const fs::path& to, const std::vector<fs::path>& inputs) {
  std::error_code none;
  const auto dir = to.has_parent_path() ? to.parent_path() : fs::path(".");
  if (!fs::is_directory(dir, none)) throw usage_error(option + ": no directory " + dir.string());
  if (fs::is_directory(to, none)) throw usage_error(option + ": " + to.string() + " is a directory");
  struct ::stat out {};
  if (::stat(to.c_str(), &out) != 0 || !S_ISREG(out.st_mode)) return;
  const auto check = [&](const fs::path& input) {
    struct ::stat in {};
    if (::stat(input.c_str(), &in) == 0 && open_files::same_file(in, out))
      throw usage_error(option + ": " + to.string() + " is an input of this run (" + input.string() +
                        ") and would be replaced");
  };
  for (const fs::path& input : inputs) {
    check(input);
    for (fs::directory_iterator at(input, none), end; !none && at != end; at.increment(none))
      check(at->path());
  }
}

}  // namespace cli
