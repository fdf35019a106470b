// SPDX-License-Identifier: MIT
#pragma once
/// Whose state it is: a state means something only to the model, the numerics and the sums that made it.
///
///   config    SHA-256 of the configuration as JSON, keys sorted, no white space
///   weights   SHA-256 over every matrix of the model but routed experts 1, 2, …: its type, rows, columns, the
///             type and tile of its scales, the first 4096 bytes of its codes and of its scales; and over all
///             values of every vector (norms, biases, sinks, ape).  One page of each matrix is read: a second
///             for a checkpoint of 160 GB, whose other bytes are NOT seen.  Two checkpoints that differ only
///             in those are one to this hash.  How files are cut into shards, and their names, do not matter.
///   policy    the numerics policy and its stored type, e.g. official/BF16
///   executor  ref, cpu, cpu_fast: open blocks hold wide values, whose last bits are the executor's own
#include <algorithm>
#include <string>

#include "../io/config_identity.hpp"
#include "../model/transformer.hpp"

namespace dsv4 {

struct state_identity {
  std::string config, weights;  ///< 64 hexadecimal digits each
  std::string policy, executor;
  friend bool operator==(const state_identity&, const state_identity&) = default;
};

/// The name of an executor in files; one of your own gets its own name.
template <execution E>
inline constexpr const char* executor_name = E::no_name_for_files;
template <>
inline constexpr const char* executor_name<exec::ref> = "ref";
template <>
inline constexpr const char* executor_name<exec::cpu> = "cpu";
template <>
inline constexpr const char* executor_name<exec::cpu_fast> = "cpu_fast";

namespace detail {

/// Walks the weights in the order of their declaration.
class weights_hash {
 public:
  std::string of(const model_weights& w) {
    add(w.embed);
    add(w.head);
    add(w.norm);
    add(w.hc_head);
    number(static_cast<index_t>(w.layers.size()));
    for (const block_weights& b : w.layers) add(b);
    number(static_cast<index_t>(w.mtp.size()));
    for (const mtp_weights& m : w.mtp) {
      add(m.enorm);
      add(m.hnorm);
      add(m.e_proj);
      add(m.h_proj);
      add(m.block);
      add(m.hc_head);
      add(m.norm);
    }
    return io::hex(hash_.digest());
  }

 private:
  static constexpr index_t page = 4096;

  void number(index_t n) { hash_.update(&n, sizeof n); }
  void bytes(const std::byte* data, index_t size) {
    number(size);
    if (data) hash_.update(data, static_cast<std::size_t>(std::min(size, page)));
  }
  void add(const weight_matrix& m) {
    for (const index_t n : {static_cast<index_t>(m.type), m.rows, m.cols, static_cast<index_t>(m.scale_type),
                            m.tile_rows, m.tile_cols})
      number(n);
    bytes(m.data, m.present() ? m.rows * m.row_bytes() : 0);
    const index_t tiles = m.scale ? (m.rows + m.tile_rows - 1) / m.tile_rows * m.scale_cols() : 0;
    bytes(m.scale, tiles * bits_of(m.scale_type) / 8);
  }
  template <int R>
  void add(const tensor<float, R>& v) {
    const index_t n = v.data() ? v.size() : 0;
    number(n);
    if (n) hash_.update(v.data(), static_cast<std::size_t>(n) * sizeof(float));
  }
  void add(const hyper_head_weights& w) { each(w.fn, w.base, w.scale); }
  void add(const hyper_connection_weights& w) { each(w.fn, w.base, w.scale); }
  void add(const compressor_weights& w) { each(w.wkv, w.wgate, w.ape, w.norm); }
  void add(const indexer_weights& w) { each(w.wq_b, w.weights_proj, w.compressor); }
  void add(const expert_weights& w) { each(w.w1, w.w3, w.w2); }
  void add(const attention_weights& w) {
    each(w.wq_a, w.q_norm, w.wq_b, w.wkv, w.kv_norm, w.attn_sink, w.wo_a, w.wo_b);
    number(w.compressor.has_value());
    if (w.compressor) add(*w.compressor);
    number(w.indexer.has_value());
    if (w.indexer) add(*w.indexer);
  }
  void add(const moe_weights& w) {
    each(w.gate.weight, w.gate.bias, w.shared);
    const expert_table& table = w.gate.tid2eid;
    bytes(table.data, table.rows * table.k * bits_of(table.type) / 8);
    number(static_cast<index_t>(w.experts.size()));
    if (!w.experts.empty()) add(w.experts.front());
  }
  void add(const block_weights& w) { each(w.hc_attn, w.hc_ffn, w.attn_norm, w.ffn_norm, w.attn, w.ffn); }
  template <class... W>
  void each(const W&... w) {
    (add(w), ...);
  }

  io::sha256 hash_;
};

}  // namespace detail

/// Reads a page of each matrix: once per program, not once per file.
template <numerics_policy P, execution E>
state_identity identity_of(const transformer<P, E>& model) {
  return {io::hex(io::sha256_of(model.configuration())), detail::weights_hash().of(model.weights()),
          std::string(P::name) + "/" + std::string(name_of(dtype_of<act_t<P>>)), executor_name<E>};
}

}  // namespace dsv4
