// SPDX-License-Identifier: MIT
// The one way to write a file: whole or not at all, through links, straight into devices, never over an input.
#include <dsv4/io/atomic_file.hpp>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <thread>

#include <dsv4/io/file_lock.hpp>
#include <dsv4/io/folders.hpp>
#include <dsv4/io/mapped_file.hpp>
#include <dsv4/io/safetensors_writer.hpp>
#include <dsv4/io/zstd_stream.hpp>

#include "catch.hpp"
#include "io_test.hpp"

namespace {

namespace fs = std::filesystem;
namespace io = dsv4::io;

std::size_t count(const fs::path& dir) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(dir), fs::directory_iterator()));
}
::mode_t mode_of(const fs::path& path) {
  struct ::stat s {};
  REQUIRE(::stat(path.c_str(), &s) == 0);
  return s.st_mode & 07777;
}

TEST_CASE("a file appears whole at commit, and not at all without it", "[io][write]") {
  const temporary_directory dir;
  const fs::path path = dir / "a.txt";
  {
    io::atomic_file file(path);
    file.write("new", 3);
    CHECK_FALSE(fs::exists(path));
    CHECK(count(dir) == 1);
    file.commit();
  }
  CHECK(read_file(path) == "new");
  {
    io::atomic_file file(path);
    file.write("lost");
    CHECK(read_file(path) == "new");
  }
  CHECK(read_file(path) == "new");
  CHECK(count(dir) == 1);  // nothing is left behind
}

TEST_CASE("who may read a written file", "[io][write]") {
  const temporary_directory dir;
  const ::mode_t before = ::umask(027);
  io::write_whole(dir / "new", "x");
  io::write_whole(dir / "private", "x", io::new_file::owner_only);
  ::umask(before);
  CHECK(mode_of(dir / "new") == 0640);
  CHECK(mode_of(dir / "private") == 0600);
  for (const ::mode_t mode : {0600u, 0644u, 0664u, 0755u}) {
    REQUIRE(::chmod((dir / "new").c_str(), mode) == 0);
    io::write_whole(dir / "new", "y");
    CHECK(mode_of(dir / "new") == mode);
  }
}

TEST_CASE("a link stays a link, and what it leads to is replaced or made", "[io][write]") {
  const temporary_directory dir;
  fs::create_directory(dir / "elsewhere");
  write_file(dir / "elsewhere/target", "old");
  fs::create_symlink("elsewhere/target", dir / "relative");
  fs::create_symlink(dir / "relative", dir / "chain");
  fs::create_symlink(dir / "elsewhere/made", dir / "dangling");
  for (const char* name : {"relative", "chain", "dangling"}) {
    io::write_whole(dir / name, name);
    CHECK(fs::is_symlink(dir / name));
    CHECK(read_file(dir / name) == name);
  }
  CHECK(read_file(dir / "elsewhere/target") == "chain");
  CHECK(read_file(dir / "elsewhere/made") == "dangling");
  CHECK(count(dir / "elsewhere") == 2);

  fs::create_symlink("two", dir / "one");
  fs::create_symlink("one", dir / "two");
  CHECK(message<dsv4::error>([&] { io::write_whole(dir / "one", "x"); }).find("symbolic links") !=
        std::string::npos);
  fs::create_symlink(dir / "elsewhere", dir / "folder");
  CHECK(message<dsv4::contract_violation>([&] {
          io::write_whole(dir / "folder", "x");
        }).find("is a folder") != std::string::npos);
}

TEST_CASE("what is no regular file is written to, not replaced", "[io][write]") {
  const temporary_directory dir;
  // A device, directly and through a link.
  struct ::stat before {
  }, after{};
  REQUIRE(::stat("/dev/null", &before) == 0);
  io::write_whole("/dev/null", "x");
  fs::create_symlink("/dev/null", dir / "null");
  io::write_whole(dir / "null", "x");
  REQUIRE(::stat("/dev/null", &after) == 0);
  CHECK(S_ISCHR(after.st_mode));
  CHECK(before.st_ino == after.st_ino);
  CHECK(message<dsv4::error>([&] { io::write_whole("/dev/full", "x"); }) ==
        "/dev/full: cannot be written: No space left on device");
  // A named pipe.
  REQUIRE(::mkfifo((dir / "pipe").c_str(), 0600) == 0);
  std::string got;
  std::thread reader([&] { got = read_file(dir / "pipe"); });
  io::write_whole(dir / "pipe", "through the pipe");
  reader.join();
  CHECK(got == "through the pipe");
  CHECK(fs::is_fifo(dir / "pipe"));
  // A stream that is open goes on where it is.
  const int fd = ::open((dir / "stream").c_str(), O_WRONLY | O_CREAT, 0600);
  REQUIRE(::write(fd, "before ", 7) == 7);
  io::write_whole("/proc/self/fd/" + std::to_string(fd), "file ");
  REQUIRE(::write(fd, "after", 5) == 5);
  ::close(fd);
  CHECK(read_file(dir / "stream") == "before file after");
}

TEST_CASE("a file that is being read is not replaced, whatever it is called", "[io][write]") {
  const temporary_directory dir;
  write_file(dir / "model", "weights");
  fs::create_symlink("model", dir / "link");
  fs::create_hard_link(dir / "model", dir / "hard");
  {
    const io::mapped_file model(dir / "model");
    io::mapped_file moved = io::mapped_file(dir / "model");
    for (const char* name : {"model", "link", "hard", "../" /* the folder */})
      CHECK_THROWS_AS(io::write_whole(dir / name, "x"), dsv4::contract_violation);
    CHECK(message<dsv4::contract_violation>([&] {
            io::write_whole(dir / "link", "x");
          }).find("is being read") != std::string::npos);
    io::write_whole(dir / "beside", "x");
    CHECK(std::string(io::open_files::mapped_at(model.data() + 3)) == (dir / "model").string());
    CHECK(io::open_files::mapped_at(&model) == nullptr);
    moved = io::mapped_file(dir / "beside");
    CHECK_THROWS_AS(io::write_whole(dir / "beside", "x"), dsv4::contract_violation);
  }
  CHECK(read_file(dir / "model") == "weights");
  io::write_whole(dir / "model", "x");
  CHECK(read_file(dir / "model") == "x");
  CHECK(io::open_files::first_changed().empty());
}

TEST_CASE("an input that changes while it is mapped is remembered", "[io][write]") {
  const temporary_directory dir;
  write_file(dir / "replaced", "0123456789");
  write_file(dir / "cut", "0123456789");
  {
    const io::mapped_file a(dir / "replaced"), b(dir / "cut");
    fs::rename(write_file(dir / "other", "another file"), dir / "replaced");
    CHECK(a.text() == "0123456789");  // the mapping keeps the file that it has
  }
  CHECK(io::open_files::first_changed().empty());
  // In a child: what is remembered stays remembered.
  const ::pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    {
      const io::mapped_file b(dir / "cut");
      fs::resize_file(dir / "cut", 4);
      if (b.text() != std::string_view("0123\0\0\0\0\0\0", 10)) ::_exit(2);
    }
    ::_exit(io::open_files::first_changed() == (dir / "cut").string() ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

/// What writers do to a disk that takes `most` bytes of a file.
template <class F>
void on_small_disk(std::size_t most, F f) {
  struct ::rlimit limit {
  }, small{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  small = limit;
  small.rlim_cur = most;
  ::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  f();
  ::setrlimit(RLIMIT_FSIZE, &limit);
  ::signal(SIGXFSZ, SIG_DFL);
}

TEST_CASE("every writer leaves the old file when the disk is full", "[io][write]") {
  const temporary_directory dir;
  const fs::path path = dir / "file";
  const std::string big(1 << 16, 'x');
  std::vector<std::byte> noise(1 << 16);
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = std::byte(i * i * 2654435761u >> 13);
  write_file(path, "old");
  io::safetensors_writer tensors;
  tensors.add("x", dsv4::dtype::i8, {1 << 16}, noise.data());
  std::vector<std::string> messages;
  on_small_disk(4096, [&] {
    messages.push_back(message<dsv4::error>([&] { io::write_whole(path, big); }));
    messages.push_back(message<dsv4::error>([&] { tensors.write(path); }));
    messages.push_back(message<dsv4::error>([&] { io::write_zstd(path, noise.data(), noise.size()); }));
  });
  for (const std::string& m : messages) CHECK(m == path.string() + ": cannot be written: File too large");
  CHECK(read_file(path) == "old");
  CHECK(count(dir) == 1);
}

TEST_CASE("what cannot be written is refused before anything happens", "[io][write]") {
  const temporary_directory dir;
  CHECK(message<dsv4::error>([&] { io::atomic_file(dir / "none/file"); }) ==
        (dir / "none/file").string() + ": cannot be created: No such file or directory");
  write_file(dir / "file", "x");
  CHECK(message<dsv4::error>([&] { io::atomic_file(dir / "file/below"); }).find("Not a directory") !=
        std::string::npos);
  CHECK_THROWS_AS(io::atomic_file(dir / ""), dsv4::error);
  // The longest name that the system takes is written, too.
  const std::string longest(255, 'n');
  io::write_whole(dir / longest, "x");
  CHECK(read_file(dir / longest) == "x");
  CHECK(count(dir) == 2);
  if (::geteuid() == 0) return;  // root may write everything
  fs::permissions(dir / "file", fs::perms::owner_read);
  CHECK(message<dsv4::error>([&] { io::write_whole(dir / "file", "y"); }).find("Permission denied") !=
        std::string::npos);
  CHECK(read_file(dir / "file") == "x");
}

TEST_CASE("names of unfinished writes", "[io][write]") {
  const temporary_directory dir;
  io::atomic_file file(dir / "log.jsonl");
  std::string name;
  for (const auto& f : fs::directory_iterator(dir.operator const fs::path&()))
    name = f.path().filename().string();
  CHECK(io::is_unfinished_of(name, "log.jsonl"));
  CHECK_FALSE(io::is_unfinished_of(name, "og.jsonl"));
  CHECK_FALSE(io::is_unfinished_of(name + "x", "log.jsonl"));
  for (const char* other :
       {"voice.part-a", "x.part-y.mp3", "log.jsonl", "log.jsonl.part-", "log.jsonl.part-abcde",
        "log.jsonl.part-abcde.", "log.jsonl.part-abcdefg", "xlog.jsonl.part-abcdef"})
    CHECK_FALSE(io::is_unfinished_of(other, "log.jsonl"));
  CHECK(io::is_unfinished_of("log.jsonl.part-aZ09xy", "log.jsonl"));
  io::open_files::remove_begun();  // as a signal that ends the program does
  CHECK(count(dir) == 0);
}

TEST_CASE("a lock is held by one process, and given back when that ends", "[io][write]") {
  const temporary_directory dir;
  const fs::path path = dir / "lock";
  {
    auto mine = io::file_lock::try_take(path);
    CHECK(mine);
    CHECK(mine.is_new());
    const auto other = io::file_lock::try_take(path);  // another open file, as of another process
    CHECK_FALSE(other);
    CHECK(other.holder() == "process " + std::to_string(::getpid()));
    const auto moved = std::move(mine);
    CHECK(moved);
    CHECK_FALSE(io::file_lock::try_take(path));
  }
  const ::pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const auto lock = io::file_lock::take(path);
    ::raise(SIGKILL);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  const auto again = io::file_lock::try_take(path);
  CHECK(again);
  CHECK_FALSE(again.is_new());
}

TEST_CASE("a new folder takes back what it was asked for, and nothing else", "[io][write]") {
  const temporary_directory dir;
  {
    io::new_folder f(dir / "out", "a bundle");
    io::write_whole(f.file("a"), "x");
  }
  CHECK_FALSE(fs::exists(dir / "out"));
  {
    io::new_folder f(dir / "out", "a bundle");
    io::write_whole(f.file("a"), "x");
    write_file(dir / "out/mine", "x");
  }
  CHECK(count(dir / "out") == 1);
  CHECK(message<dsv4::contract_violation>([&] {
          io::new_folder(dir / "out", "a bundle");
        }).find("is there already") != std::string::npos);
  fs::remove(dir / "out/mine");
  {
    io::new_folder f(dir / "out", "a bundle");  // empty: the user's own
    io::write_whole(f.file("a"), "x");
  }
  CHECK(fs::is_directory(dir / "out"));
  {
    io::new_folder f(dir / "out", "a bundle");
    io::write_whole(f.file("a"), "x");
    f.keep();
  }
  CHECK(count(dir / "out") == 1);
  fs::path scratch;
  {
    const io::scratch_folder s("scratch", dir);
    scratch = s.path();
    write_file(scratch / "x", "x");
  }
  CHECK_FALSE(fs::exists(scratch));
}

}  // namespace
