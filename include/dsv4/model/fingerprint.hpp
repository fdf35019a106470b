// SPDX-License-Identifier: MIT
#pragma once
/// Which weights a sequence came from, in 64 bits: a state of one checkpoint means nothing to another, and where both
/// have the same sizes nothing else would tell.
///
/// Read are the first 4096 bytes, a page of a mapped file, of the codes and of the scales of every matrix, and of every
/// vector and table; of the routed experts only the first of each layer.  Each is among what the first call reads
/// anyway.  Checkpoints that differ in other bytes only are one to this number: it finds a mistake, and is no proof
/// (gen/state_identity.hpp has SHA-256 of the same parts, for files).
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "weights.hpp"

namespace dsv4 {

namespace detail {

/// 64 bits of everything that is added.
class fingerprint {
 public:
  void add(const weight_matrix& m) {
    begin_of(m.data, m.rows * m.row_bytes());
    const index_t tile_rows = m.scale ? (m.rows + m.tile_rows - 1) / m.tile_rows : 0;
    begin_of(m.scale, tile_rows * m.scale_cols() * bits_of(m.scale_type) / 8);
  }
  void add(const expert_table& t) { begin_of(t.data, t.rows * t.k * bits_of(t.type) / 8); }
  template <int R>
  void add(const tensor<float, R>& v) {
    begin_of(v.data(), v.size() * static_cast<index_t>(sizeof(float)));
  }
  std::uint64_t value() const { return hash_; }

 private:
  static constexpr index_t page = 4096;

  void begin_of(const void* data, index_t bytes) {
    if (!data) bytes = 0;
    add_word(static_cast<std::uint64_t>(bytes));
    const auto* from = static_cast<const std::byte*>(data);
    for (index_t at = 0, end = std::min(bytes, page); at < end; at += index_t{sizeof(std::uint64_t)}) {
      std::uint64_t word = 0;
      std::memcpy(&word, from + at, static_cast<std::size_t>(std::min(index_t{sizeof word}, end - at)));
      add_word(word);
    }
  }
  /// Can be undone, so that a change of one word alone always changes the result.
  void add_word(std::uint64_t word) {
    constexpr std::uint64_t prime =
        1099511628211;        // check: 1099511628211 == 2**40 + 2**8 + 0xb3; that of FNV-1a
    constexpr int half = 32;  // a product carries upwards only: the upper half goes down again
    hash_ = (hash_ ^ word) * prime;
    hash_ ^= hash_ >> half;
  }

  std::uint64_t hash_ = 0;
};

}  // namespace detail

/// Never 0, which stands for "not known".  MTP is left out: the same model with and without its block is one, and a
/// prefix that one has read is good for the other.
inline std::uint64_t fingerprint_of(const model_weights<>& w, const config& c) {
  detail::fingerprint all;
  each_weight(w, c, [&](const weight_info& i, const auto& weight) {
    if (i.expert <= 0 && !i.name.starts_with("mtp.")) all.add(weight);
  });
  return std::max(all.value(), std::uint64_t{1});
}

}  // namespace dsv4
