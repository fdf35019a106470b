// SPDX-License-Identifier: MIT
#pragma once
/// The tokens of a pass as one layer's attention sees them: whose they are, where they stand, what is remembered.
/// @paper{DSV4, section 2.3}
/// axes     t token · i pair of rotary channels
/// oracle   none: the released code runs one call of equally long sequences
/// deviates sequences of different lengths, each with any number of new tokens
#include "../core/call.hpp"
#include "../op/rope.hpp"
#include "kv_cache.hpp"

namespace dsv4 {

/// Rotary table of a layer kind, and the angles of a batch by it.
template <class Mem>
struct rotary_context {
  view<const float, 1, Mem> inv_freq;  // [rd/2]
  basic_rotary_angles<Mem> angles;     // [t, rd/2] at every token of the batch
};

/// A flat batch of tokens: segments[i] are those of sequence i, states[i] is this layer's memory of it.
template <numerics_policy P, execution E>
struct layer_batch {
  std::span<const segment> segments;
  view<const std::int32_t, 1, mem_of<E>> ids;  // [t]
  index_t ratio;                               // the layer's compression ratio, 0 for none
  rotary_context<mem_of<E>> rotary;
  std::span<attention_state<P, E>* const> states;

  std::size_t sequences() const { return segments.size(); }
};

/// Rows of every sequence go into its ring: of(states[i]) is the ring.
template <numerics_policy P, execution E, observer Tap, class T, class Of>
void append_to_rings(const call_context<E, Tap>& call, const layer_batch<P, E>& batch,
                     view<T, 2, mem_of<E>> rows /*[t,d]*/, Of of) {
  using append = ring_append<T, mem_of<E>>;
  const workspace::scope here(call.host);
  const std::span<append> appends = take_list<append>(call.host, batch.sequences());
  for (std::size_t i = 0; i < appends.size(); ++i) {
    const segment& g = batch.segments[i];
    appends[i] = {g.begin, g.end, g.start, of(*batch.states[i]).ring()};
  }
  kernel::append_rows<E>::run(call.e, view<const T, 2, mem_of<E>>(rows), std::span<const append>(appends));
}

}  // namespace dsv4
