// SPDX-License-Identifier: MIT
#pragma once
/// The same model with its channels in another order: every sum over hidden channels, query ranks, expert
/// channels or output ranks then runs through its terms in another order, and nothing else changes.
/// Channels move within blocks of 32 only, so that every scale of weights (128 x 128, 1 x 32) and of
/// activations (128, 64, 32) covers the same values as before: quantisation commutes with the permutation.
/// Head channels stay: their position means something (rotation, blocks of the cache).
#include <cstring>
#include <memory>
#include <vector>

#include "../../core/config.hpp"
#include "../../core/contract.hpp"
#include "../../core/tap.hpp"
#include "../../model/weights.hpp"

namespace dsv4::golden {

/// New channel i is old channel p[i].
struct channel_permutation {
  std::vector<index_t> hidden, query_rank, inner, output_rank;  // [D], [qr], [I], [r]

  /// Of the last axis of a site; null where it keeps its order.
  const std::vector<index_t>* of(site s) const {
    switch (s) {
      case site::hc_attn_y:
      case site::attn_norm:
      case site::attn_out:
      case site::mid:
      case site::hc_ffn_y:
      case site::ffn_norm:
      case site::ffn_routed:
      case site::ffn_shared:
      case site::ffn_out:
      case site::out:
      case site::hc_head_y:
      case site::head_norm: return &hidden;
      case site::attn_qr: return &query_rank;
      case site::attn_o_lora: return &output_rank;
      default: return nullptr;
    }
  }
};

namespace detail {

/// A permutation of 0 … n-1 within blocks of 32, from a seed by integers only.
inline std::vector<index_t> block_permutation(index_t n, std::uint64_t& state) {
  constexpr index_t block = 32;
  std::vector<index_t> p(usize(n));
  for (index_t i = 0; i < n; ++i) p[usize(i)] = i;
  for (index_t begin = 0; begin < n; begin += block)
    for (index_t i = std::min(n, begin + block) - 1; i > begin; --i) {  // Fisher-Yates
      state += 0x9E3779B97F4A7C15u;
      std::uint64_t z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
      const index_t j = begin + static_cast<index_t>((z >> 1) % static_cast<std::uint64_t>(i - begin + 1));
      std::swap(p[usize(i)], p[usize(j)]);
    }
  return p;
}
/// The same permutation in each of `times` consecutive parts.
inline std::vector<index_t> repeated(const std::vector<index_t>& p, index_t times) {
  std::vector<index_t> out;
  const auto n = static_cast<index_t>(p.size());
  for (index_t t = 0; t < times; ++t)
    for (const index_t i : p) out.push_back(t * n + i);
  return out;
}

}  // namespace detail

/// Permuted copies of all matrices; they take as much memory as the model's weights.
struct permuted_model {
  channel_permutation permutation;
  model_weights<> weights;

  permuted_model(const config& c, const model_weights<>& from, std::uint64_t seed) : weights(from) {
    permutation.hidden = detail::block_permutation(c.hidden_size, seed);
    permutation.query_rank = detail::block_permutation(c.q_lora_rank, seed);
    permutation.inner = detail::block_permutation(c.moe_intermediate_size, seed);
    permutation.output_rank = detail::block_permutation(c.o_lora_rank, seed);
    streams_ = detail::repeated(permutation.hidden, c.hc_mult);
    ranks_ = detail::repeated(permutation.output_rank, c.o_groups);
    each_weight(weights, c, [&](const weight_info& i, auto& field) { permute(i, field); });
  }
  permuted_model(const permuted_model&) = delete;
  permuted_model& operator=(const permuted_model&) = delete;

 private:
  /// Of an axis; null where it keeps its order.
  const std::vector<index_t>* order(channel_kind c) const {
    switch (c) {
      case channel_kind::hidden: return &permutation.hidden;
      case channel_kind::streams: return &streams_;
      case channel_kind::query_rank: return &permutation.query_rank;
      case channel_kind::output_rank: return &ranks_;
      case channel_kind::inner: return &permutation.inner;
      case channel_kind::other: break;
    }
    return nullptr;
  }
  void permute(const weight_info& i, weight_matrix& w) {
    if (const auto* p = order(i.channels[0])) rows(w, *p);
    if (const auto* p = order(i.channels[1])) columns(w, *p);
  }
  template <int R>
  void permute(const weight_info& i, tensor<float, R>& v) {
    for (const channel_kind c : i.channels)
      if (const auto* p = order(c)) {
        expects(R == 1, "permuted_model: " + i.name + ": only vectors and matrices are permuted");
        if constexpr (R == 1) vector(v, *p);
      }
  }
  void permute(const weight_info&, expert_table&) {}

  static void vector(tensor<float, 1>& v, const std::vector<index_t>& p) {
    expects_equal(v.extent(0), static_cast<index_t>(p.size()), "permuted_model: a vector's channels");
    tensor<float, 1> old = v;
    for (index_t i = 0; i < v.extent(0); ++i) v[i] = old[p[usize(i)]];
  }
  void columns(weight_matrix& w, const std::vector<index_t>& p) {
    expects_equal(w.cols, static_cast<index_t>(p.size()), "permuted_model: a matrix's columns");
    std::byte* to = take(w.rows * w.row_bytes());
    const index_t each = bits_of(w.type) / 8;  // 0: two codes per byte
    for (index_t o = 0; o < w.rows; ++o) {
      const std::byte* from = w.row(o);
      std::byte* row = to + o * w.row_bytes();
      for (index_t i = 0; i < w.cols; ++i) {
        const index_t j = p[usize(i)];
        if (each > 0) {
          std::memcpy(row + i * each, from + j * each, usize(each));
        } else {
          const unsigned code = std::to_integer<unsigned>(from[j / 2]) >> (j % 2 ? 4 : 0) & 15;
          row[i / 2] = i % 2 ? row[i / 2] | static_cast<std::byte>(code << 4) : static_cast<std::byte>(code);
        }
      }
    }
    w.data = to;
  }
  void rows(weight_matrix& w, const std::vector<index_t>& p) {
    expects_equal(w.rows, static_cast<index_t>(p.size()), "permuted_model: a matrix's rows");
    const auto gather = [&](const std::byte* from, index_t bytes) {
      std::byte* to = take(w.rows * bytes);
      for (index_t o = 0; o < w.rows; ++o)
        std::memcpy(to + o * bytes, from + p[usize(o)] * bytes, usize(bytes));
      return to;
    };
    w.data = gather(w.data, w.row_bytes());
    // Tiles of many rows keep their scales; one row's scales go with it.
    if (w.scale && w.tile_rows == 1) w.scale = gather(w.scale, w.scale_cols() * bits_of(w.scale_type) / 8);
  }
  std::byte* take(index_t bytes) {
    constexpr index_t line = 64;  // keeps what the fast kernels load aligned
    storage_.emplace_back(usize(bytes + line));
    void* p = storage_.back().data();
    std::size_t space = storage_.back().size();
    return static_cast<std::byte*>(std::align(line, usize(bytes), p, space));
  }

  std::vector<index_t> streams_, ranks_;
  std::vector<std::vector<std::byte>> storage_;
};

}  // namespace dsv4::golden
