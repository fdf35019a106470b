// SPDX-License-Identifier: MIT
#pragma once
/// The folder of a training run: the files it has, who may write them, and what a kill left of them.
///
///   auto folder = run_folder::to_train("run1", /*resume=*/true);   // locked until the object ends
///   folder.has_checkpoint()   folder.checkpoint()   folder.log() ...
///
/// - One process trains in a folder: it holds run.lock, another one is refused.
/// - Models are written by whoever holds export.lock: the trainer at its end, or an export of the checkpoint meanwhile.
///   Who has it begins by reading the checkpoint, so that the models of a later step are never replaced by older ones.
/// - Reading a run changes nothing in it.
/// - What a kill left unfinished is removed by the next trainer, under its lock, in folders that a trainer has made a
///   run (its lock is there), and only under the names that atomic_file gives to unfinished writes of the run's files.
/// @throws contract_violation the folder is in use; it has a run, or none   @throws error it cannot be written
#include <array>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "../core/error.hpp"
#include "../io/atomic_file.hpp"
#include "../io/file_lock.hpp"

namespace dsv4::trainer {

class run_folder {
 public:
  /// To train in: a new run, or with `resume` the one that is there (a new one if there is none).
  static run_folder to_train(const std::filesystem::path& dir, bool resume) {
    run_folder f(dir);
    std::error_code failed;
    std::filesystem::create_directories(dir, failed);
    if (failed) throw error(dir.string() + ": cannot be made: " + failed.message());
    if (f.has_checkpoint() && !resume)
      throw contract_violation(
          dir.string() + " holds a training run: --resume goes on with it, another --out begins a new one");
    f.lock_ = io::file_lock::try_take(dir / "run.lock");
    if (!f.lock_) throw contract_violation(dir.string() + ": " + f.lock_.holder() + " trains there now");
    if (!f.lock_.is_new()) f.remove_unfinished();
    return f;
  }
  /// To read a run that may be going on.
  static run_folder to_read(const std::filesystem::path& dir) {
    run_folder f(dir);
    if (!f.has_checkpoint()) throw contract_violation(f.checkpoint().string() + " does not exist");
    return f;
  }
  /// Held while models are read from the checkpoint and written; waits for another export.
  io::file_lock begin_export() const { return io::file_lock::take(dir_ / "export.lock"); }

  const std::filesystem::path& path() const { return dir_; }
  std::filesystem::path checkpoint() const { return dir_ / checkpoint_name; }
  std::filesystem::path log() const { return dir_ / log_name; }
  std::filesystem::path curve() const { return dir_ / curve_name; }
  std::filesystem::path settings() const { return dir_ / settings_name; }
  std::filesystem::path float_model() const { return dir_ / float_name; }
  std::filesystem::path official_model() const { return dir_ / official_name; }
  bool has_checkpoint() const {
    std::error_code none;
    return std::filesystem::exists(checkpoint(), none);
  }
  /// The file system knows locks; without them nothing keeps two trainers apart.
  bool lockable() const { return lock_.supported(); }

  static constexpr const char *checkpoint_name = "checkpoint.safetensors.zst", *log_name = "log.jsonl",
                              *curve_name = "loss.svg", *settings_name = "settings.json",
                              *float_name = "float", *official_name = "official";

 private:
  explicit run_folder(std::filesystem::path dir) : dir_(std::move(dir)) {}

  void remove_unfinished() const {
    remove_unfinished(dir_, {checkpoint_name, log_name, curve_name, settings_name});
    // As export.hpp names them.
    for (const auto& model : {float_model(), official_model()})
      remove_unfinished(model, {"model-00001-of-00001.safetensors", "model.safetensors.index.json",
                                "config.json", "tokenizer.json", "tokenizer_config.json"});
  }
  static void remove_unfinished(const std::filesystem::path& folder, const std::vector<std::string>& names) {
    namespace fs = std::filesystem;
    std::error_code none;
    std::vector<fs::path> unfinished;
    for (fs::directory_iterator at(folder, none), end; !none && at != end; at.increment(none)) {
      const std::string found = at->path().filename().string();
      for (const std::string& name : names)
        if (io::is_unfinished_of(found, name) && at->symlink_status(none).type() == fs::file_type::regular)
          unfinished.push_back(at->path());
    }
    for (const fs::path& p : unfinished) fs::remove(p, none);
  }

  std::filesystem::path dir_;
  io::file_lock lock_;
};

}  // namespace dsv4::trainer
