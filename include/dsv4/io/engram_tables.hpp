// SPDX-License-Identifier: MIT
#pragma once
/// The tables of an Engram checkpoint: hundreds of gigabytes that stay in their files, and are read by rows.
/// source   Engram; names as released with DeepSeek-V4.1
/// axes     r row · d channel of a row · c column
/// oracle   reference_tests/unit/io/engram_tables.cpp: a sparse file of V4.1's sizes
///
///   layers.N.engram.embed.weight   F8_E4M3 [r, d]
///   layers.N.engram.embed.scale    F8_E8M0 [r, d/32]
///
/// r is the sum of the layer's primes (engram/hash.hpp): a table of another size was made for another hash, and every
/// row of it would be the wrong one, so sizes are checked when the files are opened.  What the rows hold is checked when
/// they are read: 100 GB are not read to find a NaN.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "../engram/hash.hpp"
#include "../engram/table.hpp"
#include "message.hpp"
#include "tensor_table.hpp"

namespace dsv4::io {

class engram_tables {
 public:
  /// path: a checkpoint directory, or one of its files.  width: channels of a row.
  /// @throws format_error with file, tensor, expected and found
  static engram_tables open(const std::filesystem::path& path, const engram::hash_settings& hash,
                            index_t width) {
    engram_tables t;
    t.files_ = tensor_table::open(path);
    const engram::hash_tables sizes = engram::hash_tables::of(hash);
    expects(width > 0 && width % engram::scaled_channels == 0, "engram_tables: a row is whole blocks of 32");
    for (std::size_t l = 0; l < hash.layers.size(); ++l) {
      const std::string p = "layers." + std::to_string(hash.layers[l]) + ".engram.embed.";
      const index_t rows = sizes.rows[l], scales = width / engram::scaled_channels;
      const std::byte* codes = t.need(p + "weight", dtype::f8_e4m3, {rows, width});
      const std::byte* scale = t.need(p + "scale", dtype::f8_e8m0, {rows, scales});
      t.tables_.push_back({{reinterpret_cast<const e4m3*>(codes), rows, width},
                           {reinterpret_cast<const e8m0*>(scale), rows, scales}});
      t.names_.push_back(p + "weight");
    }
    return t;
  }

  /// Of the l-th layer that has one.  The view lives as long as this object.
  const engram::fp8_table& layer(std::size_t l) const& { return tables_[l]; }
  const engram::fp8_table& layer(std::size_t l) && = delete;

  /// The system begins to fetch these rows, of any number of tokens, and this returns: for the time in which the layers
  /// before the table's own run.
  void prefetch(std::size_t l, view<const index_t, 1> rows /*[c]*/) const {
    const engram::fp8_table& t = tables_[l];
    for (const index_t r : rows) {
      expects_in(r, 0, t.rows(), "engram_tables::prefetch: row");
      will_need(t.codes[r].data(), t.width());
      will_need(t.scales[r].data(), t.scales.extent(1));
    }
  }

  /// The rows of a token side by side, decoded.  @throws format_error a row that holds NaN: file, tensor and row
  template <class T>
  void read(std::size_t l, view<const index_t, 1> rows /*[c]*/, view<T, 1> out /*[c d]*/) const {
    const engram::fp8_table& t = tables_[l];
    engram::read_rows<T>(t, rows, out);
    for (index_t c = 0; c < rows.extent(0); ++c)
      for (index_t d = 0; d < t.width(); ++d)
        if (out[c * t.width() + d] != out[c * t.width() + d])
          fail_format(files_.path_of(*files_.find(names_[l])),
                      "tensor " + in_quotes(names_[l]) + ": row " + std::to_string(rows[c]) + ", channel " +
                          std::to_string(d) + " is no number; the table is damaged");
  }

  const tensor_table& files() const& { return files_; }
  const tensor_table& files() && = delete;

 private:
  const std::byte* need(const std::string& name, dtype type, const std::vector<index_t>& shape) {
    const std::string wanted = std::string(name_of(type)) + " " + shape_text(shape);
    const stored_tensor* t = files_.take(name);
    if (!t) fail_format(files_.path(), "tensor " + in_quotes(name) + " is missing, expected " + wanted);
    const tensor_info& s = *t->stored;
    if (s.type != type || s.shape != shape)
      fail_format(files_.path_of(*t), "tensor " + in_quotes(name) + ": found " +
                                          std::string(name_of(s.type)) + " " + shape_text(s.shape) +
                                          ", expected " + wanted +
                                          " (rows: the sum of the primes of the hash)");
    return s.data;
  }
  /// A hint: whether the system takes it changes no value.
  static void will_need(const void* data, index_t bytes) {
    static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto from = reinterpret_cast<std::uintptr_t>(data) / page * page;
    const auto to = reinterpret_cast<std::uintptr_t>(data) + usize(bytes);
    ::madvise(reinterpret_cast<void*>(from), to - from, MADV_WILLNEED);
  }

  tensor_table files_;
  std::vector<engram::fp8_table> tables_;
  std::vector<std::string> names_;
};

}  // namespace dsv4::io
