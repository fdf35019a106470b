// SPDX-License-Identifier: MIT
#pragma once
/// A checkpoint of recipe weights (recipe.hpp): written in the published layout, as its directory on the hub
/// (config.json, index, shards), and recognised again.  Nothing larger than a row, or a MiB, is in memory.
/// After an error the directory is as it was.
/// @throws error the disk is full or cannot be written; contract_violation the directory is not empty
#include <charconv>
#include <filesystem>
#include <optional>

#include "../../io/checkpoint.hpp"
#include "../../io/config_out.hpp"
#include "../../io/folders.hpp"
#include "../../io/safetensors_writer.hpp"
#include "../bundle/manifest.hpp"
#include "recipe.hpp"

namespace dsv4::golden {

struct checkpoint_size {
  std::size_t tensors = 0, files = 0, bytes = 0;
};

struct recipe_options {
  index_t shard_bytes = index_t{4} << 30;                     ///< a file is closed before it would be larger
  std::function<void(index_t done, index_t total)> progress;  ///< bytes
  std::vector<std::pair<std::string, std::string>> beside;    ///< small files to put with it: name, content
};

/// Writes the checkpoint of `c` with the weights of `seed` into a new directory.
checkpoint_size write_recipe_checkpoint(const std::filesystem::path& dir, const config& c, std::uint64_t seed,
                                        const recipe_options& options = {});

/// What the checkpoint says of itself, if every byte of it is what that recipe makes.
std::optional<weights_identity> recipe_of(const io::checkpoint& model);

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "recipe_checkpoint_impl.hpp"
#endif
