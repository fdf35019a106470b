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
#include <variant>
#include <vector>

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

/// Hashes the weights in the order of format dsv4-state/1, which is fixed and not that of the tree.  A weight that
/// the order does not name comes last, so that none can be forgotten.
class weights_hash {
 public:
  std::string of(const model_weights<>& w, const config& c) {
    each_weight(w, c, [&](const weight_info& i, const auto& weight) {
      if (i.expert <= 0) entries_.push_back({i.name, &weight});  // of the routed experts the first
    });
    next("embed.", "head.", "norm.", "hc_head_");
    number(static_cast<index_t>(w.layers.size()));
    for (std::size_t l = 0; l < w.layers.size(); ++l)
      block("layers." + std::to_string(l) + ".", w.layers[l].ffn.experts.size());
    number(static_cast<index_t>(w.mtp.size()));
    for (std::size_t b = 0; b < w.mtp.size(); ++b) {
      const std::string p = "mtp." + std::to_string(b) + ".";
      next(p + "enorm.", p + "hnorm.", p + "e_proj.", p + "h_proj.");
      block(p, w.mtp[b].block.ffn.experts.size());
      next(p + "hc_head_", p + "norm.");
    }
    next("");
    return io::hex(hash_.digest());
  }

 private:
  using field = std::variant<const weight_matrix*, const tensor<float, 1>*, const tensor<float, 2>*,
                             const expert_table*>;
  struct entry {
    std::string name;
    field value;
  };
  static constexpr index_t page = 4096;

  void block(const std::string& p, std::size_t experts) {
    const std::string attention = p + "attn.", compressor = attention + "compressor.",
                      indexer = attention + "indexer.";
    next(p + "hc_attn_", p + "hc_ffn_", p + "attn_norm.", p + "ffn_norm.");
    next_where([&](const std::string& n) {
      return n.starts_with(attention) && !n.starts_with(compressor) && !n.starts_with(indexer);
    });
    number(has(compressor));
    next(compressor);
    number(has(indexer));
    next(indexer);
    next(p + "ffn.gate.weight");
    if (!next(p + "ffn.gate.bias")) number(0);
    const std::string shared = p + "ffn.shared_experts.", first = p + "ffn.experts.0.";
    next(shared + "w1.", shared + "w3.", shared + "w2.");
    if (!next(p + "ffn.gate.tid2eid")) number(0);
    number(static_cast<index_t>(experts));
    next(first + "w1.", first + "w3.", first + "w2.");
  }

  bool has(const std::string& prefix) const {
    return std::any_of(entries_.begin(), entries_.end(),
                       [&](const entry& e) { return e.name.starts_with(prefix); });
  }
  /// Hashes the entries with such names, in the order of the tree, and forgets them; false: there are none.
  template <class Test>
  bool next_where(Test test) {
    const auto found = std::stable_partition(entries_.begin(), entries_.end(),
                                             [&](const entry& e) { return !test(e.name); });
    const bool any = found != entries_.end();
    for (auto e = found; e != entries_.end(); ++e) std::visit([&](const auto* v) { add(*v); }, e->value);
    entries_.erase(found, entries_.end());
    return any;
  }
  /// Those whose names begin so.
  bool next(const std::string& prefix) {
    return next_where([&](const std::string& name) { return name.starts_with(prefix); });
  }
  template <class... Prefix>
  void next(const std::string& a, const std::string& b, const Prefix&... rest) {
    next(a), next(b), (next(rest), ...);
  }

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
  void add(const expert_table& t) { bytes(t.data, t.rows * t.k * bits_of(t.type) / 8); }

  std::vector<entry> entries_;
  io::sha256 hash_;
};

}  // namespace detail

/// Reads a page of each matrix: once per program, not once per file.
template <numerics_policy P, execution E>
state_identity identity_of(const transformer<P, E>& model) {
  return {io::hex(io::sha256_of(model.configuration())),
          detail::weights_hash().of(model.weights(), model.configuration()),
          std::string(P::name) + "/" + std::string(name_of(dtype_of<act_t<P>>)), executor_name<E>};
}

}  // namespace dsv4
