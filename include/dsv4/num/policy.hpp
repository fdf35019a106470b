// SPDX-License-Identifier: MIT
#pragma once
/// The two numerics policies.  docs/deviations.md compares them.
/// @paper{DSV4, section 2.3.4 and 5.2.1}
/// axes     none
/// oracle   float32: transformers >= 5.10.1 in float32; official: the released inference code
/// deviates none
///
/// A policy says what is STORED between operations; how wide the arithmetic in between is belongs to
/// the executor (core/exec.hpp).
///
///   official      activations bf16; FP8/FP4 simulation where the released code has it
///   float32<T>    pure mathematics: activations T, no activation quantisation, no Hadamard
#include <concepts>

#include "minifloat.hpp"

namespace dsv4 {

struct official {
  using activation = bf16;
  static constexpr bool quantised = true;
  static constexpr const char* name = "official";
};

template <class T = float>
struct float32 {
  using activation = T;
  static constexpr bool quantised = false;
  static constexpr const char* name = "float32";
};

/// The type in which a policy stores activations.
template <class P>
using act_t = typename P::activation;

template <class P>
concept numerics_policy = requires {
  typename P::activation;
  { P::quantised } -> std::convertible_to<bool>;
};

}  // namespace dsv4
