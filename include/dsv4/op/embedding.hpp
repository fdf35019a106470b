// SPDX-License-Identifier: MIT
#pragma once
/// Token embedding, copied into the n residual streams of mHC.
/// axes     t token · n stream · d channel
/// oracle   model.py, Transformer.forward
#include <algorithm>
#include <cstdint>
#include <span>

#include "../core/contract.hpp"
#include "../num/block_scaled.hpp"

namespace dsv4 {

/// One row of the table per token, stored as activations.  Ids are checked by the model's front.
template <class A>
void embed(std::span<const std::int32_t> ids /*[t]*/, const weight_matrix& table /*[vocab,d]*/,
           view<A, 2> y /*[t,d]*/) {
  for (index_t t = 0; t < y.extent(0); ++t)
    for (index_t d = 0; d < y.extent(1); ++d)
      y(t, d) = store<A>(table.at(ids[static_cast<std::size_t>(t)], d));
}

/// The same row in every stream: h[t, j] = row[t].
template <class A>
void copy_to_streams(view<const A, 2> row /*[t,d]*/, view<A, 3> h /*[t,n,d]*/) {
  for (index_t t = 0; t < h.extent(0); ++t)
    for (index_t j = 0; j < h.extent(1); ++j) std::copy_n(row[t].data(), h.extent(2), h[t][j].data());
}

}  // namespace dsv4
