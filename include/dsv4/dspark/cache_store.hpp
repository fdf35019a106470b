// SPDX-License-Identifier: MIT
#pragma once
/// How a drafter's keys and values are rounded when they are stored: exactly (a mathematical check), or to FP8 and back.
/// source   DSpark; as released with DeepSeek-V4-Flash-DSpark and -V4.1
/// axes     c channel of a head
/// oracle   golden/dspark/v41_train.safetensors, fp8.*
#include <algorithm>

#include "../core/view.hpp"
#include "../op/act_quant.hpp"

namespace dsv4::dspark {

/// V4.1 rounds in groups of this many channels; V4 in those of the model's cache (kv_quant_block).
inline constexpr index_t v41_store_group = 32;

struct exact_store {
  template <class T>
  void operator()(view<T, 1>) const {}
};

/// e4m3 with one power-of-two scale per `group` channels; the last `untouched` channels stay as they are.
struct fp8_store {
  index_t group;
  index_t untouched = 0;

  /// V4: the channels that do not turn.
  static fp8_store v4(index_t rotary) { return {kv_quant_block, rotary}; }
  /// V4.1: all channels.
  static fp8_store v41() { return {v41_store_group, 0}; }

  template <class T>
  void operator()(view<T, 1> kv /*[c]*/) const {
    const index_t channels = kv.extent(0) - untouched;
    for (index_t from = 0; from < channels; from += group) {
      const index_t n = std::min(group, channels - from);
      const double scale = block_scale(&kv[from], n, e4m3_max, fp8_amax_floor);
      for (index_t c = from; c < from + n; ++c)
        kv[c] = T(scaled_code<e4m3>(double(kv[c]), scale, e4m3_max).decode() * scale);
    }
  }
};

}  // namespace dsv4::dspark
