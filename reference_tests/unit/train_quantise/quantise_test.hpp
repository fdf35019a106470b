// SPDX-License-Identifier: MIT
#pragma once
/// Weights to quantise, and the message of an exception.
#include <cmath>
#include <string>

#include "dsv4/train/quantise.hpp"
#include "random_model.hpp"

namespace dsv4_test {

using train::fake_quantise;
using train::parameter_layout;

/// Values of many sizes and both signs, zeros, whole tiles of zeros: everything the tiles can meet.
template <class T = float>
tensor<T, 1> master_weights(const parameter_layout& layout, std::uint64_t seed) {
  tensor<T, 1> w(layout.size);
  integers r{seed};
  for (const train::parameter_info& p : layout.all)
    for (index_t k = 0; k < p.size(); ++k) {
      const double size = std::ldexp(1.0, -static_cast<int>(r.below(12)) - 4);
      w(p.offset + k) =
          static_cast<T>(r.below(16) == 0 ? 0.0 : (double(r.next() >> 11) * 0x1p-52 - 1) * size);
      if (p.name.ends_with("experts.1.w1.weight") && k / p.shape[1] % 3 == 0)
        w(p.offset + k) = 0;                                           // FP4 tiles of zeros
      if (p.name.ends_with("wo_b.weight")) w(p.offset + k) = T(-0.0);  // FP8 tiles of zeros
    }
  return w;
}

/// tiny_config with tiles that are not full.
inline config partial_config() {
  config c = tiny_config();
  c.hidden_size = 160;
  c.moe_intermediate_size = 136;
  c.q_lora_rank = 144;
  return c;
}

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const dsv4::error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

}  // namespace dsv4_test
