// SPDX-License-Identifier: MIT
#pragma once
/// What goes into a product and what comes out: rows of activations are read as groups of 8, and sums are stored.
/// axes     t token · k input channel · o output channel
/// oracle   quantised_activations::at; store
#include <algorithm>

#include "../../num/block_scaled.hpp"
#include "../parallel.hpp"
#include "../simd.hpp"

namespace dsv4::cpu {

/// Columns of a row in memory that kernels read: whole groups of 8, zeros behind the end.
constexpr index_t padded(index_t k) { return ceil_div(k, simd::group_size) * simd::group_size; }

/// Rows of activations: t rows of k values that lie `stride` elements apart.
template <class A>
struct plain_rows {
  const A* data;
  index_t count, k, stride;

  /// Columns [from, to) of row t times `factor` as groups; zeros up to a whole group.
  template <class W>
  void expand(index_t t, index_t from, index_t to, W factor, W* out) const {
    const A* x = data + t * stride + from;
    const auto f = simd::set_group(factor);
    index_t i = 0;
    for (; i + simd::group_size <= to - from; i += simd::group_size)
      simd::store_group(out + i, simd::mul(read<W>(x + i), f));
    if (i == to - from) return;
    A last[simd::group_size] = {};
    std::copy(x + i, x + (to - from), last);
    simd::store_group(out + i, simd::mul(read<W>(last), f));
  }

 private:
  template <class W>
  static simd::group<W> read(const A* x) {
    return simd::codes<A>::template load<W>(reinterpret_cast<const std::byte*>(x));
  }
};

/// Rows of quantised activations, code * scale: exact in W.
struct quantised_rows {
  quantised_activations x;
  index_t count, k;

  explicit quantised_rows(const quantised_activations& q) : x(q), count(q.rows()), k(q.cols()) {}

  template <class W>
  void expand(index_t t, index_t from, index_t to, W factor, W* out) const {
    using format = simd::codes<e4m3>;
    const auto one = simd::set_group(static_cast<W>(1 / format::unit<W>));
    const std::byte* code = reinterpret_cast<const std::byte*>(x.code.data() + t * k);
    for (index_t i = from; i < to; i += simd::group_size) {
      const auto f = simd::set_group(factor * static_cast<W>(x.scale(t, i / fp8_tile)));
      std::byte last[simd::group_size] = {};
      const std::byte* group = code + i;
      if (i + simd::group_size > to) {
        std::copy(code + i, code + to, last);
        group = last;
      }
      simd::store_group(out + (i - from), simd::mul(simd::mul(format::load<W>(group), one), f));
    }
  }
};

/// Where sums go: y(t, o + i) = stored(sum[i]).  The type of y is behind a pointer, so that a kernel is compiled
/// once per weight format and not once per caller.
template <class W>
struct destination {
  std::byte* data;
  index_t token_bytes, element_bytes;  // from one token to the next, and from one output to the next
  void (*put)(std::byte* at, const W* sum, index_t n);

  void operator()(index_t t, index_t o, const W* sum, index_t n) const {
    put(data + t * token_bytes + o * element_bytes, sum, n);
  }
  /// The same, `t` tokens and `o` outputs further.
  destination from(index_t t, index_t o) const {
    return {data + t * token_bytes + o * element_bytes, token_bytes, element_bytes, put};
  }
};
template <class W, class Y>
destination<W> into(Y* y, index_t stride) {
  const auto put = [](std::byte* at, const W* sum, index_t n) {
    Y* out = reinterpret_cast<Y*>(at);
    for (index_t i = 0; i < n; ++i) out[i] = store<Y>(sum[i]);
  };
  return {reinterpret_cast<std::byte*>(y), stride * index_t{sizeof(Y)}, sizeof(Y), put};
}

}  // namespace dsv4::cpu
