// SPDX-License-Identifier: MIT
#pragma once
/// Core attention of training on the CPU: tiles of queries, all their heads at once, as matrix products.
/// @paper{DSV4, Eq. (19), (26), (27)}
/// axes     t query of a tile · h head · q = (t, h) row · k key: the tile's window, then the visible entries · d channel
/// oracle   train/sparse_attention.hpp
/// deviates none
///
/// Keys are shared by the heads: a tile of 32 queries and h heads is one product of 32 h rows.  Keys that a query does
/// not see get a bias of -inf, which Eigen's vectorised exp of floats makes 3e-39, not 0: nothing beside a
/// softmax's sum, which is at least 1.  Tiles of a sample run in order on one thread, which fixes the sums into the keys.
#include <limits>

#include "../../adapt/eigen.hpp"
#include "../../train/sparse_attention.hpp"
#include "product.hpp"

namespace dsv4::cpu {

inline constexpr index_t query_tile = 32;

/// The keys of the queries [begin, end) of one sample, side by side, and who sees what.
template <class T>
struct tile_keys {
  index_t begin, end, first, window_keys, entries;
  view<T, 2> keys;  // [k, d]
  view<T, 2> bias;  // [t, k] 0, or -inf where the query does not see the key

  static tile_keys take(workspace& w, const train::attention_keys<T>& k, index_t begin, index_t end) {
    const index_t first = std::max(index_t{0}, begin - k.window + 1), window_keys = end - first,
                  d = k.kv.extent(1);
    // Entries beyond the last one that any query of the tile attends to are left out.
    index_t entries = k.entries.extent(0);
    const auto seen = [&](index_t s) {
      for (index_t t = begin; t < end; ++t)
        if (k.chosen(t, s)) return true;
      return false;
    };
    while (entries > 0 && !seen(entries - 1)) --entries;
    tile_keys tile{begin,
                   end,
                   first,
                   window_keys,
                   entries,
                   w.take<T>(window_keys + entries, d),
                   w.take<T>(end - begin, window_keys + entries)};
    std::copy_n(k.kv[first].data(), window_keys * d, tile.keys.data());
    if (entries) std::copy_n(k.entries.data(), entries * d, tile.keys[window_keys].data());
    for (index_t t = begin; t < end; ++t) {
      T* bias = tile.bias[t - begin].data();
      for (index_t p = first; p < end; ++p)
        bias[p - first] = p <= t && p > t - k.window ? T(0) : -std::numeric_limits<T>::infinity();
      for (index_t s = 0; s < entries; ++s)
        bias[window_keys + s] = k.chosen(t, s) ? T(0) : -std::numeric_limits<T>::infinity();
    }
    return tile;
  }
};

}  // namespace dsv4::cpu

namespace dsv4::kernel {

template <accumulate A>
struct attend<exec::basic_cpu<A>> {
  template <class T>
  using keys = train::attention_keys<T>;
  // einsum: q d, k d -> q k; softmax over k; q k, k d -> q d
  template <class T>
  static void forward(view<const T, 3> q, const keys<T>& k, view<const T, 1> sink, view<T, 3> o,
                      view<T, 2> lse) {
    const index_t heads = q.extent(1), d = q.extent(2);
    const T scale = 1 / std::sqrt(T(d));
    for (index_t begin = 0; begin < q.extent(0); begin += cpu::query_tile) {
      workspace& scratch = train::thread_scratch();
      workspace::scope here(scratch);
      const index_t end = std::min(begin + cpu::query_tile, q.extent(0)), rows = (end - begin) * heads;
      const auto tile = cpu::tile_keys<T>::take(scratch, k, begin, end);
      const auto keys = adapt::as_eigen(tile.keys);
      auto p = scratch.take<T>(rows, tile.keys.extent(0));  // [q, k] scores, then their softmax
      auto P = adapt::as_eigen(p);
      P.noalias() = adapt::as_eigen(q.rows(begin, end).reshape(rows, d)) * keys.transpose();
      for (index_t r = 0; r < rows; ++r) {
        const index_t t = r / heads, h = r % heads;
        auto row = P.row(r).array();
        row = row * scale + adapt::as_eigen(tile.bias).row(t).array();
        const T largest = std::max(row.maxCoeff(), sink[h]);
        row = (row - largest).exp();                            // Eq. (27)
        const T sum = row.sum() + std::exp(sink[h] - largest);  // Eq. (27)
        lse(begin + t, h) = largest + std::log(sum);
        row *= 1 / sum;
      }
      adapt::as_eigen(o.rows(begin, end).reshape(rows, d)).noalias() = P * keys;  // Eq. (19), (26)
    }
  }

  // einsum: q d, k d -> q k (twice); q k, k d -> q d; q k, q d -> k d (twice)
  template <class T>
  static void backward(view<const T, 3> q, const keys<T>& k, view<const T, 1> sink, view<const T, 2> lse,
                       view<const T, 3> dout, view<const T, 2> delta, view<T, 3> dq, const keys<T>& dk,
                       view<T, 1> dsink) {
    const index_t heads = q.extent(1), d = q.extent(2);
    const T scale = 1 / std::sqrt(T(d));
    for (index_t begin = 0; begin < q.extent(0); begin += cpu::query_tile) {
      workspace& scratch = train::thread_scratch();
      workspace::scope here(scratch);
      const index_t end = std::min(begin + cpu::query_tile, q.extent(0)), rows = (end - begin) * heads;
      const auto tile = cpu::tile_keys<T>::take(scratch, k, begin, end);
      const auto keys = adapt::as_eigen(tile.keys);
      const auto Q = adapt::as_eigen(q.rows(begin, end).reshape(rows, d)),
                 G = adapt::as_eigen(dout.rows(begin, end).reshape(rows, d));
      const index_t n = tile.keys.extent(0);
      auto p = scratch.take<T>(rows, n), dz = scratch.take<T>(rows, n);  // [q, k]
      auto P = adapt::as_eigen(p), dZ = adapt::as_eigen(dz);
      P.noalias() = Q * keys.transpose();
      dZ.noalias() = G * keys.transpose();  // <do, k>
      for (index_t r = 0; r < rows; ++r) {
        const index_t t = r / heads, h = r % heads;
        auto row = P.row(r).array();
        row = (row * scale + adapt::as_eigen(tile.bias).row(t).array() - lse(begin + t, h)).exp();
        dZ.row(r).array() = row * (dZ.row(r).array() - delta(begin + t, h)) * scale;
        dsink[h] -= std::exp(sink[h] - lse(begin + t, h)) * delta(begin + t, h);
      }
      adapt::as_eigen(dq.rows(begin, end).reshape(rows, d)).noalias() = dZ * keys;
      auto dkeys = scratch.take<T>(n, d);  // [k, d]
      auto dK = adapt::as_eigen(dkeys);
      dK.noalias() = dZ.transpose() * Q;
      dK.noalias() += P.transpose() * G;
      adapt::as_eigen(dk.kv.rows(tile.first, tile.end)) += dK.topRows(tile.window_keys);
      if (tile.entries) adapt::as_eigen(dk.entries.rows(0, tile.entries)) += dK.bottomRows(tile.entries);
    }
  }

  // einsum: t h d, s d -> t h s; exp; sum over h
  template <class T>
  static void mass(view<const T, 3> q, view<const T, 2> entries, view<const std::uint8_t, 2> chosen,
                   view<const T, 2> lse, view<T, 2> out) {
    const index_t heads = q.extent(1), d = q.extent(2), n = entries.extent(0);
    const T scale = 1 / std::sqrt(T(d));
    for (index_t begin = 0; begin < q.extent(0); begin += cpu::query_tile) {
      workspace& scratch = train::thread_scratch();
      workspace::scope here(scratch);
      const index_t end = std::min(begin + cpu::query_tile, q.extent(0)), rows = (end - begin) * heads;
      auto p = scratch.take<T>(rows, n);  // [q, s]
      auto P = adapt::as_eigen(p);
      P.noalias() =
          adapt::as_eigen(q.rows(begin, end).reshape(rows, d)) * adapt::as_eigen(entries).transpose();
      for (index_t t = begin; t < end; ++t) {
        auto sum = adapt::as_eigen(out).row(t).array();
        sum.setZero();
        // An entry outside the set may score beyond the softmax: only chosen ones are kept.
        for (index_t h = 0; h < heads; ++h)
          sum += (P.row((t - begin) * heads + h).array() * scale - lse(t, h)).exp();
        for (index_t s = 0; s < n; ++s)
          if (!chosen(t, s)) out(t, s) = 0;
      }
    }
  }
};

}  // namespace dsv4::kernel
