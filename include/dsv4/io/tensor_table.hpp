// SPDX-License-Identifier: MIT
#pragma once
/// The files of a checkpoint as one table of tensors under the hub's names.
/// A checkpoint is a directory with model.safetensors.index.json and its shards, with model.safetensors,
/// with weights.safetensors, or with a single *.safetensors; or one such file.  Every file may instead be
/// there as .safetensors.zst, which is decompressed to memory.
/// @throws format_error a file is missing or malformed, the index contradicts the shards or reaches outside
///         of the directory, or one tensor is there twice
#include <algorithm>
#include <deque>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "safetensors.hpp"
#include "tensor_names.hpp"

namespace dsv4::io {

/// One tensor of a checkpoint.
struct stored_tensor {
  std::string_view name;  ///< the hub's name, whatever the spelling in the file
  const tensor_info* stored = nullptr;
  std::size_t file = 0;  ///< which of tensor_table::files()
  bool used = false;     ///< part of the model (or one of the duplicates that -Base ships)
};

namespace detail {

/// `path` itself, or `path`.zst when only that exists; empty when neither does.
std::filesystem::path plain_or_compressed(const std::filesystem::path& path);

}  // namespace detail

class tensor_table {
 public:
  /// @throws format_error
  static tensor_table open(const std::filesystem::path& path,
                           std::size_t max_decompressed = default_max_decompressed);

  /// One file that is open already, read from `path`.
  static tensor_table of(const std::filesystem::path& path, safetensors file,
                         std::vector<std::string> notes = {});

  /// In alphabetical order of the hub's names.
  const std::vector<stored_tensor>& tensors() const& { return table_; }
  const std::vector<stored_tensor>& tensors() const&& = delete;
  const std::vector<safetensors>& files() const& { return files_; }
  const std::vector<safetensors>& files() const&& = delete;
  /// What is worth saying of the choice of files: one sentence each.
  const std::vector<std::string>& notes() const& { return notes_; }
  const std::vector<std::string>& notes() const&& = delete;
  const std::filesystem::path& path() const& { return path_; }
  const std::filesystem::path& path() const&& = delete;
  const std::filesystem::path& path_of(const stored_tensor& t) const { return files_[t.file].path(); }

  /// By the hub's name; null when there is none.
  const stored_tensor* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }
  bool has_prefix(std::string_view prefix) const;
  /// `find`, and the tensor counts as used.
  const stored_tensor* take(std::string_view name);

 private:
  std::vector<stored_tensor>::const_iterator first_not_below(std::string_view name) const;

  void open_files(const std::filesystem::path& path, const safetensors_options& how);

  /// The one .safetensors of a directory, else the one .safetensors.zst.
  static std::filesystem::path only_file(const std::filesystem::path& directory);

  void open_shards(const std::filesystem::path& index_file, const safetensors_options& how);

  /// All tensors under their hub names, sorted; a name may occur once.
  void make_table();

  std::filesystem::path path_;
  std::vector<std::string> notes_;
  std::vector<safetensors> files_;
  std::deque<std::string> renamed_;   // hub names that differ from the stored ones
  std::vector<stored_tensor> table_;  // sorted by hub name
};

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "tensor_table_impl.hpp"
#endif
