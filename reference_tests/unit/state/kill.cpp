// SPDX-License-Identifier: MIT
// A save that does not end leaves the file that was there: kills at random moments and at given bytes of the
// write, a disk that takes no more, names that cannot be written.
#include "catch.hpp"
#include "state_run.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <chrono>
#include <csignal>

namespace dsv4_test {
namespace {

using run_type = state_run<official, exec::ref>;

/// Two states and what their files hold.
struct two_states {
  random_model weights{tiny_config()};
  run_type run{weights};
  run_type::sequence_type s[2];
  run_type::extras_type x[2];
  scratch_folder folder;
  std::filesystem::path path = folder.path / "chat.state";
  std::string bytes[2];

  two_states() {
    const auto ids = random_ids(60, weights.c.vocab_size, 3);
    for (int i = 0; i < 2; ++i) {
      s[i] = run.model.new_sequence(60, 2);
      run.feed(s[i], x[i], std::span(ids).first(i ? 50 : 20));
      x[i].application.assign(std::size_t{1} << (i ? 18 : 16), 'a');
      integers noise{static_cast<std::uint64_t>(i)};
      for (char& c : x[i].application) c = static_cast<char>(noise.next());  // zstd writes in several pieces
      save(i);
      bytes[i] = read_bytes(path);
    }
  }
  void save(int i) { save_state(path, run.identity, run.model, s[i], x[i]); }
  /// Which of the two the file holds; -1: neither.  It must also load.
  int holds() const {
    const std::string found = read_bytes(path);
    const auto loaded = load_state(path, run.identity, run.model, {60, 2});
    for (int i = 0; i < 2; ++i)
      if (found == bytes[i] && loaded.sequence.length() == s[i].length()) return i;
    return -1;
  }
  /// What killed writers leave.
  void sweep() {
    for (const auto& f : std::filesystem::directory_iterator(folder.path))
      if (f.path() != path) std::filesystem::remove(f.path());
  }
};

void limit_files_to(std::size_t bytes) {
  struct ::rlimit limit {};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = bytes == 0 ? limit.rlim_max : static_cast<::rlim_t>(bytes);
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

}  // namespace

TEST_CASE("a kill at any moment of saving leaves one whole state", "[state][kill]") {
  two_states t;
  integers random{1};
  index_t old = 0, replaced = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 8; ++i) t.save(0);
  const auto save_us = (std::chrono::steady_clock::now() - begin) / std::chrono::microseconds(8);
  for (int kills = 0; kills < 150; ++kills) {
    t.save(0);
    const ::pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (int i = 1;; i = 1 - i) t.save(i);  // until killed
    }
    ::usleep(static_cast<::useconds_t>(random.below(4 * save_us + 1)));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    const int now = t.holds();
    REQUIRE(now >= 0);
    (now == 0 ? old : replaced) += 1;
    t.sweep();
  }
  // The moments were spread: both states were found.
  CHECK(old > 5);
  CHECK(replaced > 5);
}

TEST_CASE("a kill after any number of written bytes leaves the old state", "[state][kill]") {
  two_states t;
  t.save(0);
  const std::size_t size = t.bytes[1].size();
  for (std::size_t n = 1; n < size; n += n < 100 ? 9 : size / 60) {
    const ::pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::signal(SIGXFSZ, SIG_DFL);  // dies inside write, after n bytes
      limit_files_to(n);
      t.save(1);
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    INFO("after " << n << " of " << size << " bytes");
    REQUIRE(WIFSIGNALED(status));
    CHECK(t.holds() == 0);
    // What it left is no state.
    for (const auto& f : std::filesystem::directory_iterator(t.folder.path))
      if (f.path() != t.path) {
        CHECK(std::filesystem::file_size(f.path()) <= n);
        CHECK_THROWS_AS(load_state(f.path(), t.run.identity, t.run.model, {60, 2}), format_error);
      }
    t.sweep();
  }
  t.save(1);
  CHECK(t.holds() == 1);
}

TEST_CASE("a disk that takes no more: an error, the old state, nothing left behind", "[state][kill]") {
  two_states t;
  t.save(0);
  ::signal(SIGXFSZ, SIG_IGN);
  const std::size_t size = t.bytes[1].size();
  for (std::size_t n = 1; n < size; n += size / 40) {
    limit_files_to(n);
    std::string message;
    try {
      t.save(1);
    } catch (const error& e) {
      message = e.what();
    }
    limit_files_to(0);
    INFO("after " << n << " of " << size << " bytes: " << message);
    CHECK(message.find("chat.state: cannot be written: ") != std::string::npos);
    CHECK(t.holds() == 0);
    CHECK(t.folder.files() == 1);
  }
  ::signal(SIGXFSZ, SIG_DFL);
  t.save(1);
  CHECK(t.holds() == 1);
}

TEST_CASE("names that cannot be written", "[state][kill]") {
  two_states t;
  std::filesystem::create_directory(t.folder.path / "folder");
  for (const char* name : {"folder", "none/chat.state", ""}) {
    const auto path = t.folder.path / name;
    CHECK_THROWS_AS(save_state(path, t.run.identity, t.run.model, t.s[0], t.x[0]), error);
  }
  CHECK(t.folder.files() == 2);
  // A new file is its owner's; a replaced one keeps its permissions.
  namespace fs = std::filesystem;
  CHECK(fs::status(t.path).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  const auto shared = fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read;
  fs::permissions(t.path, shared);
  t.save(0);
  CHECK(fs::status(t.path).permissions() == shared);
}

}  // namespace dsv4_test
