// SPDX-License-Identifier: MIT
#pragma once
/// Token compressor, forward and backward.
/// @paper{DSV4, Eq. (9)-(12) (CSA), (20)-(23) (HCA)}
/// axes     t token · s compressed entry · d channel · c d channels of the projections (c = 2 halves for CSA)
/// oracle   attn/compressor.hpp (forward); finite differences; golden/transformers/seed0/grads.safetensors
/// deviates none
///
///   kv = W_kv x    score = W_gate x + ape[position mod ratio]    S = softmax of score over the slots, per channel
///   pooled = sum_slots S kv    entry = rotate(norm(pooled))
/// and back:  dkv = S dpooled    dscore = S (kv - pooled) dpooled
/// A token's channel is a slot of exactly one entry: of its own block's (HCA, and the high half of CSA), or of the
/// next block's (the low half of CSA).  So each entry writes the gradients of its slots, and no other does.
#include "../num/formulas.hpp"
#include "batch.hpp"
#include "parameters.hpp"
#include "rms_norm.hpp"
#include "rope.hpp"

namespace dsv4::train {

template <class T>
struct compressor_saved {
  view<T, 2> kv, score;  // [t, c d]
  view<T, 2> pooled;     // [s, d]
  view<T, 1> r;          // [s]
  view<T, 2> entries;    // [s, d]

  static compressor_saved take(workspace& w, index_t tokens, index_t entries, index_t width, index_t d) {
    return {w.take<T>(tokens, width), w.take<T>(tokens, width), w.take<T>(entries, d), w.take<T>(entries),
            w.take<T>(entries, d)};
  }
};

/// f(token, channel) for every slot of channel d of entry s.
template <class F>
void for_slots(const entry_map& map, index_t s, index_t d, index_t width, F f) {
  const bool overlap = kind_of_ratio(map.ratio) == attention_kind::csa;
  const index_t own = map.first[usize(s)];
  if (overlap && map.position[usize(s)] > 0)
    for (index_t t = own - map.ratio; t < own; ++t) f(t, d);
  for (index_t t = own; t < own + map.ratio; ++t) f(t, overlap ? d + width : d);
}

/// Of channel d of entry i: the weights of its slots and what they pool.
template <class T>
slot_mean<T> mean_of_slots(const entry_map& map, index_t i, index_t d, const compressor_saved<T>& s) {
  return softmax_mean<T>([&](auto f) {
    for_slots(map, i, d, s.pooled.extent(1),
              [&](index_t t, index_t channel) { f(s.score(t, channel), s.kv(t, channel)); });
  });
}

/// The entries of every sample, rotated at the position of their block's first token.
template <execution E, class T>
void compress(E& e, const config& c, const entry_map& map, const std::vector<index_t>& position /*[t]*/,
              view<T, 2> x /*[t,D]*/, const compressor_parameters<const T>& w, const rotary_table& rotary,
              const compressor_saved<T>& s) {
  const index_t width = w.norm.extent(0);
  project(e, x, w.wkv, s.kv);       // Eq. (9), (20)
  project(e, x, w.wgate, s.score);  // Eq. (10), (21)
  kernel::rows<E>::run(e, x.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) {
      const T* bias = w.ape[position[usize(t)] % map.ratio].data();
      for (index_t d = 0; d < s.score.extent(1); ++d) s.score(t, d) += bias[d];  // Eq. (11), (22)
    }
  });
  kernel::rows<E>::run(e, map.size(), 1, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t d = 0; d < width; ++d) {
        s.pooled(i, d) = mean_of_slots(map, i, d, s).mean;  // Eq. (11), (12), (22), (23)
      }
  });
  rms_norm(e, s.pooled, w.norm, c.rms_norm_eps, s.r, s.entries);
  rotate(
      e, s.entries.reshape(map.size(), 1, width), rotary, [&](index_t i) { return map.position[usize(i)]; },
      rotation::forward);
}

/// From dentries, which is overwritten, to dw and dx, which are added to.  An empty dx is not computed.
template <execution E, class T>
void compress_backward(E& e, workspace& scratch, const entry_map& map,
                       const std::vector<index_t>& position /*[t]*/, view<T, 2> dentries /*[s,d]*/,
                       view<T, 2> x /*[t,D]*/, const compressor_parameters<const T>& w,
                       const rotary_table& rotary, const compressor_saved<T>& s, view<T, 2> dx /*[t,D]*/,
                       const compressor_parameters<T>& dw) {
  workspace::scope here(scratch);
  const index_t width = w.norm.extent(0), tokens = x.extent(0), channels = s.kv.extent(1);
  rotate(
      e, dentries.reshape(map.size(), 1, width), rotary, [&](index_t i) { return map.position[usize(i)]; },
      rotation::inverse);
  auto dpooled = zeros<T>(e, scratch, map.size(), width);  // [s, d]
  rms_norm_backward(e, dentries, s.pooled, w.norm, s.r, dpooled, dw.norm);

  // Channels that are no slot of any entry (open blocks, the low half of each last block) keep a gradient of 0.
  auto dkv = zeros<T>(e, scratch, tokens, channels),
       dscore = zeros<T>(e, scratch, tokens, channels);  // [t, c d]
  kernel::rows<E>::run(e, map.size(), 1, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t d = 0; d < width; ++d) {
        const slot_mean<T> mean = mean_of_slots(map, i, d, s);
        for_slots(map, i, d, width, [&](index_t t, index_t channel) {
          const T share = mean.weight(s.score(t, channel)) / mean.weights;
          dkv(t, channel) = share * dpooled(i, d);
          dscore(t, channel) = share * (s.kv(t, channel) - s.pooled(i, d)) * dpooled(i, d);
        });
      }
  });
  kernel::rows<E>::run(e, channels, channel_grain, [&](index_t begin, index_t end) {
    for (index_t t = 0; t < tokens; ++t)
      for (index_t d = begin; d < end; ++d) dw.ape(position[usize(t)] % map.ratio, d) += dscore(t, d);
  });
  project_backward(e, dkv, x, w.wkv, dx, dw.wkv);
  project_backward(e, dscore, x, w.wgate, dx, dw.wgate);
}

}  // namespace dsv4::train
