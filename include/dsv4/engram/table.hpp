// SPDX-License-Identifier: MIT
#pragma once
/// The table of a layer as published: rows of e4m3 codes with a power-of-two scale for every 32 channels.
/// source   Engram; as released with DeepSeek-V4.1
/// axes     r row · d channel of a row
/// oracle   golden/engram/module_v41.safetensors: fp8.values, equal
///
/// 384 million rows of 256 channels are 100 GB: codes and scales are views, of a mapped file as a rule, and what is read
/// is the rows that a token needs: 24 of 264 bytes.
#include <algorithm>

#include "../core/contract.hpp"
#include "../num/minifloat.hpp"

namespace dsv4::engram {

/// Channels that share a scale.
inline constexpr index_t scaled_channels = 32;

struct fp8_table {
  view<const e4m3, 2> codes;   // [r,d]
  view<const e8m0, 2> scales;  // [r,d/32]

  index_t rows() const { return codes.extent(0); }
  index_t width() const { return codes.extent(1); }

  /// @throws contract_violation sizes that do not belong together
  void check() const {
    expects_equal(scales.extent(0), rows(), "engram table: rows of scales");
    expects_equal(width() % scaled_channels, 0, "engram table: channels beyond whole blocks of 32");
    expects_equal(scales.extent(1), width() / scaled_channels, "engram table: scales of a row");
  }
  /// Row r, decoded: exact in T.
  template <class T>
  void read(index_t r, view<T, 1> out /*[d]*/) const {
    expects_in(r, 0, rows(), "engram table: row");
    expects_equal(out.extent(0), width(), "engram table: channels of a row");
    for (index_t d = 0; d < width(); ++d)
      out[d] = static_cast<T>(codes(r, d).decode()) * static_cast<T>(scales(r, d / scaled_channels).decode());
  }
};

/// The same in full precision, as it is trained.
template <class T>
struct plain_table {
  view<const T, 2> values;  // [r,d]

  index_t rows() const { return values.extent(0); }
  index_t width() const { return values.extent(1); }
  void read(index_t r, view<T, 1> out /*[d]*/) const {
    expects_in(r, 0, rows(), "engram table: row");
    std::copy(values[r].begin(), values[r].end(), out.begin());
  }
};

/// The rows of a token side by side: its embedding.
template <class T, class Table>
void read_rows(const Table& table, view<const index_t, 1> rows /*[c]*/, view<T, 1> out /*[c d]*/) {
  const index_t width = table.width();
  expects_equal(out.extent(0), rows.extent(0) * width, "engram: channels of an embedding");
  for (index_t c = 0; c < rows.extent(0); ++c) table.read(rows[c], view<T, 1>(out.data() + c * width, width));
}

}  // namespace dsv4::engram
