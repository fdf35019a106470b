// SPDX-License-Identifier: MIT
#pragma once
/// What a DSpark drafter sees of the model: the mean over the streams behind each of its target layers.
/// source   DSpark; as released with DeepSeek-V4-Flash-DSpark
/// axes     t token · l target layer · n stream · d channel
/// oracle   golden/dspark/v4_draft takes such means as given
///
/// A mean is the read-out (mhc/head.hpp) whose weights are all 1/n: one sum, one store.
#include <algorithm>
#include <vector>

#include "../mhc/pre.hpp"

namespace dsv4 {

/// The means behind layer `layer` go to its places in rows [row, row + t) of `context`; other layers have none.
// einsum: t n d -> t d
template <execution E, class A, observer Tap>
void add_context(const call_context<E, Tap>& call, index_t layer, view<A, 3, mem_of<E>> h /*[t,n,d]*/,
                 view<A, 3, mem_of<E>> context /*[*,l,d]*/, index_t row) {
  using W = wide_t<E>;
  using memory = mem_of<E>;
  const auto& [e, scratch, host, c, tap] = call;
  const std::vector<index_t>& targets = c.dspark.target_layers;
  if (std::find(targets.begin(), targets.end(), layer) == targets.end()) return;
  const typename call_context<E, Tap>::scope here(call);
  const index_t t = h.extent(0), n = h.extent(1), d = h.extent(2);
  const std::span<W> even = take_list<W>(host, usize(t * n));
  for (W& weight : even) weight = W(1) / W(n);
  auto pre = take<W>(scratch, t, n);   // [t, n]
  auto mean = take<A>(scratch, t, d);  // [t, d]
  copy(e, view<const W, 2, mem::host>(even.data(), t, n), pre);
  kernel::hc_collapse<E>::run(e, view<const W, 2, memory>(pre), view<const A, 3, memory>(h), mean);
  // A layer may be named more than once.
  for (std::size_t l = 0; l < targets.size(); ++l)
    if (targets[l] == layer)
      for (index_t i = 0; i < t; ++i)
        copy(e, mean.rows(i, i + 1),
             context[row + i].rows(static_cast<index_t>(l), static_cast<index_t>(l) + 1));
}

}  // namespace dsv4
