// SPDX-License-Identifier: MIT
#pragma once
/// A checkpoint as `model_weights`: files are mapped, matrices stay where they are in their stored type.
/// The format: docs/checkpoint-format.md.  oracle: golden/checkpoint_layout, the tensor lists of Flash and Pro
///
/// tensor_table.hpp says which files, tensor_names.hpp which spellings, weight_reader.hpp which types.
/// A checkpoint without mtp.* loads without MTP; the copies of embed and head that -Base keeps under
/// mtp.* are not read.  A DSpark drafter (the -0731 checkpoints keep one under mtp.*) is another network: the model
/// loads without it and without MTP, and `drafter()` says so.  Tensors that are no part of the model are listed by
/// `unused()`.
/// @throws format_error with file, tensor, expected and found
/// @throws unsupported  another architecture, or weights in a format of others (quantisation.hpp)
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../model/weights.hpp"
#include "config_json.hpp"
#include "tensor_table.hpp"
#include "weight_reader.hpp"

namespace dsv4::io {

/// Whether all weights are read once at open to find NaN and infinity (vectors always are).
enum class scan_rule {
  automatic,  ///< when the checkpoint holds at most 2 GiB
  always,
  never,
};
inline constexpr std::size_t automatic_scan_limit = std::size_t{1} << 31;

struct checkpoint_options {
  scan_rule scan = scan_rule::automatic;
  std::size_t max_decompressed = default_max_decompressed;  ///< per .safetensors.zst file
};

/// What it hands out stays where it is when the checkpoint is moved, and dies with it.
class checkpoint {
 public:
  /// `path`: a checkpoint directory, one .safetensors file beside its config.json, or a .gguf (gguf_deepseek4.hpp:
  /// converted in memory, at most `max_decompressed` bytes).
  /// @throws format_error, unsupported
  static checkpoint open(const std::filesystem::path& path, const checkpoint_options& options = {});

  const dsv4::config& configuration() const& { return contents_->config; }
  const dsv4::config& configuration() const&& = delete;
  /// Views into this object's files.  `mtp` is empty when the files hold no mtp.* tensors, whatever the
  /// configuration says (transformers drops them), or those of another network.
  const model_weights<>& weights() const& { return contents_->weights; }
  const model_weights<>& weights() const&& = delete;

  /// Every tensor of every file, in alphabetical order of the hub's names.
  const std::vector<stored_tensor>& tensors() const& { return contents_->files.tensors(); }
  const std::vector<stored_tensor>& tensors() const&& = delete;
  const std::vector<safetensors>& files() const& { return contents_->files.files(); }
  const std::vector<safetensors>& files() const&& = delete;
  const std::filesystem::path& path() const& { return contents_->files.path(); }
  const std::filesystem::path& path() const&& = delete;
  /// By the hub's name; null when there is none.
  const tensor_info* find(std::string_view name) const&;
  const tensor_info* find(std::string_view name) const&& = delete;
  /// Tensors that are no part of the model; nothing reads them.
  std::vector<const stored_tensor*> unused() const&;
  std::vector<const stored_tensor*> unused() const&& = delete;
  /// A drafter of another kind that the files hold and nothing reads, in words; "" without one.
  const std::string& drafter() const& { return contents_->weights.foreign_drafter; }
  const std::string& drafter() const&& = delete;
  /// What there is to say to the user, who may have meant something else: one sentence each.
  const std::vector<std::string>& notes() const& { return contents_->files.notes(); }
  const std::vector<std::string>& notes() const&& = delete;
  /// Of all tensors, as stored.
  std::size_t bytes() const;
  /// Bytes of the matrices that had to be copied because the file does not align their elements.
  std::size_t realigned_bytes() const { return contents_->copies.bytes; }

 private:
  struct contents {
    dsv4::config config;
    tensor_table files;
    realigned_matrices copies;
    model_weights<> weights;

    void scan();
  };
  std::unique_ptr<contents> contents_ = std::make_unique<contents>();
};

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "checkpoint_impl.hpp"
#endif
