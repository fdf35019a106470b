// SPDX-License-Identifier: MIT
#pragma once
/// A checkpoint as a buffer of parameters: any stored type, quantised ones decoded, code times scale.
/// oracle: golden/transformers/seed0/grads.safetensors (through dsv4 grad)
#include <algorithm>
#include <string>

#include "../io/checkpoint.hpp"
#include "../train/parameters.hpp"

namespace dsv4::trainer {

using train::bind, train::routing_tables;

namespace detail {

template <class T>
class parameter_loader {
 public:
  void model(const model_weights& from, const train::model_parameters<T>& to) {
    matrix(from.embed, to.embed);
    matrix(from.head, to.head);
    vector(from.norm, to.norm);
    streams(from.hc_head, to.hc_head);
    for (std::size_t l = 0; l < to.layers.size(); ++l) block(from.layers[l], to.layers[l]);
    for (std::size_t b = 0; b < to.mtp.size(); ++b) {
      const mtp_weights& m = from.mtp[b];
      const train::mtp_parameters<T>& p = to.mtp[b];
      vector(m.enorm, p.enorm);
      vector(m.hnorm, p.hnorm);
      vector(m.norm, p.norm);
      matrix(m.e_proj, p.e_proj);
      matrix(m.h_proj, p.h_proj);
      streams(m.hc_head, p.hc_head);
      block(m.block, p.block);
    }
  }

 private:
  void block(const block_weights& from, const train::block_parameters<T>& to) {
    streams(from.hc_attn, to.hc_attn);
    streams(from.hc_ffn, to.hc_ffn);
    vector(from.attn_norm, to.attn_norm);
    vector(from.ffn_norm, to.ffn_norm);
    attention(from.attn, to.attn);
    matrix(from.ffn.gate.weight, to.ffn.gate);
    for (std::size_t e = 0; e < to.ffn.experts.size(); ++e) expert(from.ffn.experts[e], to.ffn.experts[e]);
    expert(from.ffn.shared, to.ffn.shared);
  }
  void attention(const attention_weights& from, const train::attention_parameters<T>& to) {
    matrix(from.wq_a, to.wq_a);
    vector(from.q_norm, to.q_norm);
    matrix(from.wq_b, to.wq_b);
    matrix(from.wkv, to.wkv);
    vector(from.kv_norm, to.kv_norm);
    vector(from.attn_sink, to.attn_sink);
    matrix(from.wo_a, to.wo_a);
    matrix(from.wo_b, to.wo_b);
    if (to.compressor) compressor(*from.compressor, *to.compressor);
    if (to.indexer) {
      matrix(from.indexer->wq_b, to.indexer->wq_b);
      matrix(from.indexer->weights_proj, to.indexer->weights_proj);
      compressor(from.indexer->compressor, to.indexer->compressor);
    }
  }
  void compressor(const compressor_weights& from, const train::compressor_parameters<T>& to) {
    matrix(from.wkv, to.wkv);
    matrix(from.wgate, to.wgate);
    std::copy_n(from.ape.data(), to.ape.size(), to.ape.data());
    vector(from.norm, to.norm);
  }
  void expert(const expert_weights& from, const train::expert_parameters<T>& to) {
    matrix(from.w1, to.w1);
    matrix(from.w2, to.w2);
    matrix(from.w3, to.w3);
  }
  template <class Hyper>
  void streams(const Hyper& from, const train::hyper_parameters<T>& to) {
    matrix(from.fn, to.fn);
    vector(from.base, to.base);
    vector(from.scale, to.scale);
  }
  void matrix(const weight_matrix& from, view<T, 2> to) {
    for (index_t o = 0; o < to.extent(0); ++o)
      for (index_t i = 0; i < to.extent(1); ++i) to(o, i) = static_cast<T>(from.at(o, i));
  }
  void vector(const tensor<float, 1>& from, view<T, 1> to) { std::copy_n(from.data(), to.size(), to.data()); }
};

}  // namespace detail

/// Selection biases and hash tables of a checkpoint: one entry per layer, then per MTP block.
inline routing_tables load_routing(const config& c, const model_weights& w) {
  routing_tables r;
  const auto one = [&](const gate_weights& gate) {
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
  for (const block_weights& b : w.layers) one(b.ffn.gate);
  for (const mtp_weights& m : w.mtp) one(m.block.ffn.gate);
  return r;
}

/// The configuration to train a checkpoint with: its own, without MTP blocks that its files do not hold.
inline config trained_config(const io::checkpoint& from) {
  config c = from.configuration();
  if (from.weights().mtp.empty()) {
    c.num_nextn_predict_layers = 0;
    c.compress_ratios.resize(static_cast<std::size_t>(c.num_hidden_layers));
  }
  return c;
}

/// All parameters; `buffer` is made for parameter_layout::of<T>(trained_config(from)).
template <class T>
void load_parameters(const io::checkpoint& from, view<T, 1> buffer) {
  std::fill(buffer.begin(), buffer.end(), T{0});
  detail::parameter_loader<T>().model(from.weights(), bind<T>(trained_config(from), buffer.data()));
}

}  // namespace dsv4::trainer
