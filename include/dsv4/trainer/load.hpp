// SPDX-License-Identifier: MIT
#pragma once
/// A checkpoint as a buffer of parameters.  Any stored type is accepted; quantised ones are decoded, code times scale.
/// oracle: golden/transformers/seed0/grads.safetensors (through dsv4 grad)
#include <algorithm>
#include <string>

#include "../io/checkpoint.hpp"
#include "../train/parameters.hpp"

namespace dsv4::trainer {

using train::bind, train::routing_tables;

/// Selection biases and hash tables of a checkpoint: one entry per layer, then per MTP block.
inline routing_tables load_routing(const config& c, const model_weights<>& w) {
  routing_tables r;
  const auto one = [&](const gate_weights<>& gate) {
    r.bias.push_back(gate.bias);
    tensor<std::int32_t, 2> table;
    if (gate.tid2eid.present()) {
      table = tensor<std::int32_t, 2>(c.vocab_size, c.num_experts_per_tok);
      for (index_t v = 0; v < c.vocab_size; ++v)
        for (index_t k = 0; k < c.num_experts_per_tok; ++k)
          table(v, k) = static_cast<std::int32_t>(gate.tid2eid.at(v, k));
    }
    r.table.push_back(std::move(table));
  };
  for (const block_weights<>& b : w.layers) one(b.ffn.gate);
  for (const mtp_weights<>& m : w.mtp) one(m.block.ffn.gate);
  return r;
}

/// The configuration to train a checkpoint with: its own, without MTP blocks that its files do not hold, and without a
/// drafter, which learns from a finished model (dspark/loss.hpp).
inline config trained_config(const io::checkpoint& from) {
  config c = from.configuration();
  c.dspark = {};
  if (from.weights().mtp.empty()) {
    c.num_nextn_predict_layers = 0;
    c.compress_ratios.resize(usize(c.num_hidden_layers));
  }
  return c;
}

/// All parameters; `buffer` is made for parameter_layout::of<T>(trained_config(from)).
template <class T>
void load_parameters(const io::checkpoint& from, view<T, 1> buffer) {
  std::fill(buffer.begin(), buffer.end(), T{0});
  const config c = trained_config(from);
  train::decode_weights<T>(from.weights(), c, bind<T>(c, buffer.data()));
}

}  // namespace dsv4::trainer
