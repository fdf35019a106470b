// SPDX-License-Identifier: MIT
#pragma once
/// Writes a golden bundle (`v4gold/1`, docs/bundle-format.md), tensor after tensor as they come.
///
///   golden::bundle_writer w("tiny.v4gold", about);
///   w.ids({ids});                                             // one list per sequence
///   w.begin_call(golden::call_kind::prefill, {{0, 0, 60}});   // sequence 0, positions [0, 60)
///   w.add(entry, bytes);                                      // seq, file, key, hash, statistics are filled in
///   w.finish();                                               // without it the directory goes away again
///
/// Holds one shard in memory (64 MiB, or one larger tensor).  The same calls give the same bytes.
/// @throws contract_violation out of order, or a directory that is there already
/// @throws format_error what was added does not make a valid bundle; error: a file cannot be written
/// An unfinished writer takes its files back when it ends.
#include <zstd.h>

#include <unordered_map>

#include "../../io/folders.hpp"
#include "../../io/safetensors_writer.hpp"
#include "manifest_json.hpp"
#include "stats.hpp"
#include "validate.hpp"

namespace dsv4::golden {

struct writer_options {
  bool zstd = false;
  int zstd_level = 9;
  std::size_t shard_bytes = std::size_t{1} << 26;  ///< 64 MiB before compression
  bool small = false;  ///< everything compressed as far as it goes, the manifest too
};

namespace detail {

inline constexpr int smallest_level = 19;  // of zstd without --ultra

/// Compress a file into another, piece by piece.
void compress_file(const std::filesystem::path& from, const std::filesystem::path& to, int level);

}  // namespace detail

/// A bundle's manifest, new or in the place of another (to add measured noise, say); checked before it is written.
void write_manifest(const std::filesystem::path& dir, const manifest& about,
                    const std::vector<tensor_entry>& tensors, bool compressed);
/// In the form that the bundle has.
void write_manifest(const std::filesystem::path& dir, const manifest& about,
                    const std::vector<tensor_entry>& tensors);

class bundle_writer {
 public:
  /// `about`: name, created_by, oracle, numerics, model, weights, input.{prefill,…}; the rest is filled in.
  bundle_writer(std::filesystem::path dir, manifest about, const writer_options& options = {});

  manifest& about() { return about_; }
  const std::filesystem::path& path() const { return folder_.path(); }
  /// What was added so far.
  std::vector<tensor_entry>& entries() { return entries_; }

  /// The tokens of every sequence of the batch, before the first call.
  void ids(const std::vector<std::vector<std::int32_t>>& sequences);
  /// Another tensor of inputs.safetensors.
  void input(const std::string& name, dtype type, const std::vector<index_t>& shape, const void* data);

  /// The tensors that follow belong to this call.  Returns its step.
  index_t begin_call(call_kind kind, std::vector<call_part> parts);

  /// A tensor of the current call.  `t` says name, scope, site, layer, sequence, pos, axes, shape, carrier,
  /// logical, class, deps, state, margin; the writer fills step, call, seq, file, key, sha256 and stats.
  const tensor_entry& add(tensor_entry t, std::span<const std::byte> raw);

  /// Writes what is left and the manifest.  The bundle is then complete.
  void finish();

 private:
  std::string shard_name() const;
  void list(const std::string& name, std::size_t raw);
  void flush();

  io::new_folder folder_;  // goes away again without `finish`
  manifest about_;
  writer_options options_;
  std::vector<tensor_entry> entries_;
  io::safetensors_writer inputs_, shard_;
  std::size_t shards_ = 0, shard_bytes_ = 0, shard_entries_ = 0;
};

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "bundle_writer_impl.hpp"
#endif
