// SPDX-License-Identifier: MIT
#pragma once
/// Token embedding, copied into the n residual streams of mHC.
/// axes     t token · n stream · d channel
/// oracle   model.py, Transformer.forward
#include <algorithm>
#include <cstdint>

#include "../core/contract.hpp"
#include "../core/exec.hpp"
#include "../num/block_scaled.hpp"

namespace dsv4 {

namespace kernel {
/// run(e, ids [t], table [vocab, d], y [t, d]): one row of the table per token, stored as activations.
template <execution E>
struct embed {
  static_assert(has_kernel<E>, "embed: no kernel for this executor");
};
/// run(e, row [t, d], h [t, n, d]): h[t, j] = row[t].
template <execution E>
struct copy_to_streams {
  static_assert(has_kernel<E>, "copy_to_streams: no kernel for this executor");
};

template <host_execution E>
struct embed<E> {
  template <class A>
  static void run(E&, view<const std::int32_t, 1> ids, const weight_matrix& table, view<A, 2> y) {
    for (index_t t = 0; t < y.extent(0); ++t)
      for (index_t d = 0; d < y.extent(1); ++d) y(t, d) = store<A>(table.at(ids[t], d));
  }
};

template <host_execution E>
struct copy_to_streams<E> {
  template <class A>
  static void run(E&, view<const A, 2> row, view<A, 3> h) {
    for (index_t t = 0; t < h.extent(0); ++t)
      for (index_t j = 0; j < h.extent(1); ++j) std::copy_n(row[t].data(), h.extent(2), h[t][j].data());
  }
};
}  // namespace kernel

/// One row of the table per token, stored as activations.  Ids are checked by the model's front.
template <execution E, class A>
void embed(E& e, view<const std::int32_t, 1, mem_of<E>> ids /*[t]*/,
           const basic_weight_matrix<mem_of<E>>& table /*[vocab,d]*/, view<A, 2, mem_of<E>> y /*[t,d]*/) {
  expects_equal(y.extent(0), ids.extent(0), "embed: rows of y against tokens");
  expects_equal(y.extent(1), table.cols, "embed: channels of y against the table");
  kernel::embed<E>::run(e, ids, table, y);
}

/// The same row in every stream: h[t, j] = row[t].
template <execution E, class A>
void copy_to_streams(E& e, view<A, 2, mem_of<E>> row /*[t,d]*/, view<A, 3, mem_of<E>> h /*[t,n,d]*/) {
  kernel::copy_to_streams<E>::run(e, view<const A, 2, mem_of<E>>(row), h);
}

}  // namespace dsv4
