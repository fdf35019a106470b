// SPDX-License-Identifier: MIT
// The folder of a run: who may train in it, and what is removed from it.
#include <dsv4/trainer/run_folder.hpp>

#include "../io/io_test.hpp"
#include "catch.hpp"

namespace dsv4::trainer {
namespace {

namespace fs = std::filesystem;

/// The user's files, and those that a killed trainer leaves.
struct littered {
  std::vector<fs::path> kept, left;
  explicit littered(const fs::path& dir) {
    for (const char* folder : {"", "float", "official"}) {
      fs::create_directories(dir / folder);
      for (const char* name :
           {"voice.part-a", "x.part-y.mp3", "checkpoint.part-abcdef", "checkpoint.safetensors.zst.part-",
            "checkpoint.safetensors.zst.part-abcdefg", "notes.part-abcdef"})
        kept.push_back(write_file(dir / folder / name, "mine"));
    }
    for (const char* name : {"checkpoint.safetensors.zst", "log.jsonl", "loss.svg", "settings.json"})
      left.push_back(write_file(dir / (std::string(name) + ".part-aZ09xy"), "half"));
    for (const char* name : {"float/config.json", "official/model-00001-of-00001.safetensors"})
      left.push_back(write_file(dir / (std::string(name) + ".part-aZ09xy"), "half"));
    fs::create_directory(dir / "log.jsonl.part-folder");  // no regular file
    kept.push_back(dir / "log.jsonl.part-folder");
  }
  void check(bool is_left) const {
    for (const fs::path& p : kept) CHECK(fs::exists(p));
    for (const fs::path& p : left) CHECK(fs::exists(p) == is_left);
  }
};

TEST_CASE("only a folder that was a run is tidied, and only of the run's own unfinished files",
          "[trainer][run_folder]") {
  const temporary_directory dir;
  const littered files(dir);
  {
    const auto f = run_folder::to_train(dir, false);  // not a run before
    files.check(true);
  }
  write_file(dir / "checkpoint.safetensors.zst", "state");
  CHECK_THROWS_AS(run_folder::to_train(dir, false), contract_violation);  // refused: nothing has happened
  files.check(true);
  {
    const auto f = run_folder::to_read(dir);
    const auto exporting = f.begin_export();
    files.check(true);
  }
  {
    const auto f = run_folder::to_train(dir, true);
    files.check(false);
  }
}

TEST_CASE("one trains, others read", "[trainer][run_folder]") {
  const temporary_directory dir;
  CHECK(message<contract_violation>([&] { run_folder::to_read(dir); }).find("does not exist") !=
        std::string::npos);
  const auto f = run_folder::to_train(dir / "run", true);
  CHECK_FALSE(f.has_checkpoint());
  const fs::path part = write_file(dir / "run/log.jsonl.part-abcdef", "being written");
  CHECK(message<contract_violation>([&] {
          run_folder::to_train(dir / "run", true);
        }).find("trains there now") != std::string::npos);
  write_file(f.checkpoint(), "state");
  const auto reader = run_folder::to_read(dir / "run");
  CHECK(reader.has_checkpoint());
  CHECK(fs::exists(part));
}

}  // namespace
}  // namespace dsv4::trainer
