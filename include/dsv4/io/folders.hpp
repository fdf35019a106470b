// SPDX-License-Identifier: MIT
#pragma once
/// Two kinds of folders that a program makes: one that it fills for its user, and one that it needs for a while.
///
///   new_folder f("tiny.v4gold", "a bundle");   write(f.file("taps-000.safetensors")); ...   f.keep();
///   scratch_folder s("dsv4-verify");           write(s.path() / "anything");
///
/// Neither ever removes what it did not make.  Without `keep`, after an error, a new_folder takes back the files it
/// was asked for, and itself if nothing else is in it.  A scratch_folder has a name that nothing had before.  A program
/// that a signal ends can take back both (open_files::remove_begun); what SIGKILL ends leaves them.
/// @throws contract_violation a new folder that is there already and not empty   @throws error it cannot be made
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "../core/contract.hpp"
#include "atomic_file.hpp"
#include "open_files.hpp"

namespace dsv4::io {

class new_folder {
 public:
  new_folder(std::filesystem::path dir, const std::string& what) : dir_(std::move(dir)) {
    namespace fs = std::filesystem;
    std::error_code none, failed;
    made_ = !fs::exists(dir_, none);
    expects(made_ || (fs::is_directory(dir_, none) && fs::is_empty(dir_, none)),
            dir_.string() + ": is there already; " + what + " is written into a new directory");
    fs::create_directories(dir_, failed);
    if (failed) throw error(dir_.string() + ": cannot be made: " + failed.message());
    if (!made_) return;
    try {
      begun_ = open_files::add_begun(dir_.string(), open_files::role::filled);
    } catch (...) {
      ::rmdir(dir_.c_str());
      throw;
    }
  }
  ~new_folder() {
    std::error_code none;
    for (const begun_file& f : files_) {
      if (!kept_) std::filesystem::remove(f.path, none);
      open_files::remove(f.begun);
    }
    if (made_ && !kept_) std::filesystem::remove(dir_, none);  // fails if there is more in it
    open_files::remove(begun_);
  }
  new_folder(const new_folder&) = delete;
  new_folder& operator=(const new_folder&) = delete;

  const std::filesystem::path& path() const { return dir_; }
  /// The path of a file that the caller writes now.
  std::filesystem::path file(const std::string& name) {
    files_.push_back({dir_ / name, nullptr});
    files_.back().begun = open_files::add_begun(files_.back().path.string());
    return files_.back().path;
  }
  /// Complete: everything stays.
  void keep() {
    kept_ = true;
    for (begun_file& f : files_) open_files::remove(std::exchange(f.begun, nullptr));
    open_files::remove(std::exchange(begun_, nullptr));
  }

 private:
  struct begun_file {
    std::filesystem::path path;
    open_files::entry* begun;
  };
  std::filesystem::path dir_;
  std::vector<begun_file> files_;
  open_files::entry* begun_ = nullptr;
  bool made_ = false, kept_ = false;
};

class scratch_folder {
 public:
  /// NAME-XXXXXX in `parent`, made where it is not there, or in the system's folder for temporary files.
  explicit scratch_folder(const std::string& name, const std::filesystem::path& parent = {}) {
    std::error_code failed;  // told by the next step
    if (!parent.empty()) std::filesystem::create_directories(parent, failed);
    std::string path =
        ((parent.empty() ? std::filesystem::temp_directory_path() : parent) / (name + "-XXXXXX")).string();
    if (!::mkdtemp(path.data())) throw error(path + ": cannot be made: " + detail::reason(errno));
    dir_ = std::move(path);
    try {
      begun_ = open_files::add_begun(dir_.string(), open_files::role::scratch);
    } catch (...) {
      ::rmdir(dir_.c_str());
      throw;
    }
  }
  ~scratch_folder() {
    std::error_code none;
    std::filesystem::remove_all(dir_, none);
    open_files::remove(begun_);
  }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;

  const std::filesystem::path& path() const { return dir_; }

 private:
  std::filesystem::path dir_;
  open_files::entry* begun_ = nullptr;
};

}  // namespace dsv4::io
