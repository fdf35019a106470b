// SPDX-License-Identifier: MIT
#pragma once
/// What a bundle's manifest says, as data: what was run, and one entry per recorded tensor.
/// docs/bundle-format.md is the specification of the file; manifest_json.hpp reads and writes it.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "../../core/config.hpp"
#include "../../core/dtype.hpp"
#include "file_hash.hpp"
#include "site_table.hpp"

namespace dsv4::golden {

inline constexpr std::string_view schema_name = "v4gold/1";

/// What kind of call a value comes from.
enum class call_kind : std::uint8_t { prefill, chunk, decode, mtp, count };
inline constexpr std::string_view call_kind_names[] = {"prefill", "chunk", "decode", "mtp"};
constexpr std::string_view name_of(call_kind k) { return call_kind_names[usize(k)]; }

/// Of all elements: min, max and rms are those of the finite ones, and 0 if there is none.
struct tensor_stats {
  double min = 0, max = 0, rms = 0;
  index_t nan = 0, inf = 0;
  bool operator==(const tensor_stats&) const = default;
};

/// How far correct executions differ at this tensor when each starts from golden inputs (noise.hpp).
struct measured_noise {
  double relL2 = 0;    ///< the largest ||a - b|| / ||b|| over the runs
  double max_abs = 0;  ///< the largest |a - b|
  index_t runs = 0;
};

/// One recorded value.  (step, sequence, name) identifies it; seq orders all of them by execution.
struct tensor_entry {
  std::string name;    ///< layers.3.attn.q_rope, head.logits, ….gate.indices.margin
  std::string scope;   ///< layers.3, head, mtp.0, mtp.0.head
  std::string site;    ///< attn.q_rope
  index_t layer = -1;  ///< of layers.N and mtp.N; -1 for head
  index_t seq = 0;     ///< strictly increasing over the list
  index_t step = 0;    ///< number of the call in manifest::calls
  call_kind call = call_kind::prefill;
  index_t sequence = 0;      ///< of the batch
  index_t from = 0, to = 0;  ///< positions [from, to) of the call's tokens in the sequence
  std::optional<index_t> first_entry, end_entry;  ///< rows are compressed entries [first, end)
  std::vector<std::string> axes;
  std::vector<index_t> shape;
  dtype carrier = dtype::f32;  ///< as stored: U8, U16, I32, F32, F64, BOOL, BF16
  std::string logical;         ///< what it means: bf16, f32, f64, i32, f8_e4m3, …
  tolerance_class cls = tolerance_class::stored;
  std::vector<std::string> deps;   ///< names of the same step and sequence, all before this one
  std::vector<std::string> state;  ///< names whose rows of EARLIER calls of the sequence count too
  std::string margin;              ///< of a choice: the tensor (same step, sequence) with its margins
  std::optional<measured_noise> noise;
  tensor_stats stats;
  sha256_digest sha256{};  ///< over the raw little-endian bytes
  std::string file, key;   ///< where the bytes are

  index_t elements() const {
    index_t n = 1;
    for (const index_t s : shape) n *= s;
    return n;
  }
  std::size_t bytes() const { return usize(elements() * bits_of(carrier) / 8); }
  index_t rows() const { return shape.empty() ? 1 : shape[0]; }
  index_t row_elements() const { return rows() ? elements() / rows() : 0; }
  bool is_margin() const { return cls == tolerance_class::margin; }
  /// The model's site; nothing for margins and for names of other engines.
  std::optional<dsv4::site> id() const { return site_of(site); }
  std::optional<parsed_name> parsed() const { return parse_name(name); }
};

/// Tokens [from, to) of one sequence in a call.
struct call_part {
  index_t sequence = 0, from = 0, to = 0;
};
struct call_info {
  index_t step = 0;
  call_kind kind = call_kind::prefill;
  std::vector<call_part> parts;
};

/// A file of the bundle.
struct file_info {
  std::string name;
  std::size_t bytes = 0;      ///< as it lies there
  std::size_t raw_bytes = 0;  ///< after decompression
  sha256_digest sha256{};     ///< of the file as it lies there
};

/// Another run that must give, and gave, the same bits; nothing of it is stored.
struct equal_run {
  std::string what;  ///< "chunks"
  std::vector<index_t> lengths;
  bool equal = false;
};

/// Which weights: the files of a checkpoint, a recipe that makes them, or unknown.
struct weight_file {
  std::string name;
  std::size_t bytes = 0;
  std::optional<sha256_digest> sha256;
};
struct weights_identity {
  std::string kind = "none";  ///< files, recipe, none
  std::vector<weight_file> files;
  std::string recipe;
  std::uint64_t seed = 0;
};

struct input_info {
  sha256_digest ids_sha256{};     ///< over the ids of all sequences in order, as little-endian i32
  std::vector<index_t> tokens;    ///< of each sequence
  index_t prefill = 0;            ///< tokens of the first call of sequence 0
  index_t decode_steps = 0;       ///< single-token calls
  std::vector<index_t> chunking;  ///< lengths of the calls when not one prefill
  bool mtp = false;
  std::string ladder;  ///< how the positions were chosen, for people
};

/// Everything but the tensors.
struct manifest {
  std::string name;
  nlohmann::json created_by = nlohmann::json::object();  ///< program, version, argv
  nlohmann::json oracle = nlohmann::json::object();      ///< kind, exec, source, note
  nlohmann::json numerics = nlohmann::json::object();    ///< policy ("official" or "float32") and its choices
  config model;
  sha256_digest config_sha256{};  ///< of the canonical text of `model`
  weights_identity weights;
  input_info input;
  std::vector<call_info> calls;
  std::vector<equal_run> equal_runs;
  std::vector<file_info> files;

  std::string policy() const { return numerics.value("policy", ""); }
};

}  // namespace dsv4::golden
