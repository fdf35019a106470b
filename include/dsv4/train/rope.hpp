// SPDX-License-Identifier: MIT
#pragma once
/// Rotary positions in training: a rotation's gradient is the rotation back.
/// @paper{DSV4, section 2.3.3}
/// axes     t token · h head · d channel · i pair (rd/2)
/// oracle   op/rope.hpp
/// deviates none
#include "../op/rope.hpp"
#include "product.hpp"

namespace dsv4::train {

/// cos and sin of every position below `length`, for one kind of layer.
struct rotary_table {
  tensor<float, 2> cos, sin;  // [length, rd/2]

  rotary_table() = default;
  rotary_table(const config& c, index_t ratio, index_t length)
      : cos(length, c.qk_rope_head_dim / 2), sin(length, c.qk_rope_head_dim / 2) {
    const tensor<float, 1> inv_freq = rotary_frequencies(c, ratio);
    const rotary_angles all{cos, sin};
    for (index_t p = 0; p < length; ++p) all.set(p, p, inv_freq);
  }
  index_t length() const { return cos.extent(0); }
};

/// The last rd channels of every head of row t turned by the angle of position(t), in place.
/// The gradient of a rotation is the rotation by the negative angle: pass rotation::inverse, and the other way round.
template <execution E, class T, class Position>
void rotate(E& e, view<T, 3> x /*[t,h,d]*/, const rotary_table& table, Position position,
            rotation direction) {
  const index_t pairs = table.cos.extent(1), first = x.extent(2) - 2 * pairs;
  kernel::rows<E>::run(e, x.extent(0), token_grain, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) {
      const float *cos = table.cos[position(t)].data(), *sin = table.sin[position(t)].data();
      for (index_t h = 0; h < x.extent(1); ++h) {
        T* pair = x[t][h].data() + first;
        for (index_t i = 0; i < pairs; ++i) {
          const T c = T(cos[i]), s = direction == rotation::forward ? T(sin[i]) : -T(sin[i]);
          const auto turned = rotate_pair(pair[2 * i], pair[2 * i + 1], c, s);
          pair[2 * i] = turned.even;
          pair[2 * i + 1] = turned.odd;
        }
      }
    }
  });
}

}  // namespace dsv4::train
