// SPDX-License-Identifier: MIT
#pragma once
/// Weights of one mixture of experts.
/// @paper{DSV4, section 2.1}
/// axes     docs/notation.md
/// oracle   golden/checkpoint_layout (every name and shape)
/// deviates none
#include <vector>

#include "../num/weight_info.hpp"

namespace dsv4 {

/// Expert ids of every token of the vocabulary (hash layers): [vocab, k], integers of any width.
template <class Mem>
struct basic_expert_table {
  dtype type = dtype::i64;
  const std::byte* data = nullptr;
  index_t rows = 0, k = 0;

  bool present() const { return data != nullptr; }
  DSV4_HOST_DEVICE index_t at(index_t token, index_t j) const
    requires host_memory<Mem>
  {
    return integer_at(type, data, token * k + j);
  }
};
using expert_table = basic_expert_table<mem::host>;

template <class Storage = storage::stored>
struct gate_weights {
  typename Storage::matrix weight;  // [E, D]
  typename Storage::bias bias;      // [E]         selection only; empty in hash layers
  typename Storage::table tid2eid;  // [vocab, k]  hash layers only
};

/// One SwiGLU expert: w2(silu(w1 x) * w3 x).
template <class Storage = storage::stored>
struct expert_weights {
  typename Storage::matrix w1, w3;  // [I, D]
  typename Storage::matrix w2;      // [D, I]
};

template <class Storage = storage::stored>
struct moe_weights {
  gate_weights<Storage> gate;
  std::vector<expert_weights<Storage>> experts;  // [E]
  expert_weights<Storage> shared;
};

template <class Walk, class... W>
void walk_expert(Walk& at, weight_format format, W&... w) {
  const weight_axis hidden{at.c.hidden_size, channel_kind::hidden},
      inner{at.c.moe_intermediate_size, channel_kind::inner};
  at(weight_info("w1.weight", {inner, hidden}, format, update_rule::muon), w.w1...);
  at(weight_info("w2.weight", {hidden, inner}, format, update_rule::muon), w.w2...);
  at(weight_info("w3.weight", {inner, hidden}, format, update_rule::muon), w.w3...);
}

/// `hash`: experts are taken from the table; else by score and selection bias.
template <class Walk, class... W>
void walk_moe(Walk& at, bool hash, W&... w) {
  const config& c = at.c;
  at.in("gate.", [&] {
    using enum update_rule;
    at(weight_info("weight", {c.n_routed_experts, {c.hidden_size, channel_kind::hidden}},
                   weight_format::bfloat16, muon),
       w.gate.weight...);
    if (hash)
      at(weight_info("tid2eid", {c.vocab_size, c.num_experts_per_tok}, weight_format::i64, routing),
         w.gate.tid2eid...);
    else
      at(weight_info("bias", {c.n_routed_experts}, weight_format::f32, routing, initial_value::zero),
         w.gate.bias...);
  });
  for (std::size_t e = 0; e < detail::first_of(w...).experts.size(); ++e)
    at.in_expert(static_cast<index_t>(e), [&] { walk_expert(at, weight_format::fp4, w.experts[e]...); });
  at.in("shared_experts.", [&] { walk_expert(at, weight_format::fp8, w.shared...); });
}

}  // namespace dsv4
