// SPDX-License-Identifier: MIT
#pragma once
/// All weights of a model: one tree of structs, one walk over it (num/weight_info.hpp says how to use them).
///
///   each_weight(w, c, f)            f(const weight_info&, field) for every weight
///   each_weight_of(c, f, w, to...)  the same over several trees at once: f(const weight_info&, field of each)
///   map_weights<To>(w, c, f)        a tree of another storage: f(const weight_info&, from, to) fills every field
///   weight_tree<Storage>(c)         a tree of a configuration whose fields are still empty
///
/// The order is that of the model: embedding, layers, read-out, head, then the MTP blocks or a drafter's stages.
/// @paper{DSV4, section 2}
/// axes     docs/notation.md
/// oracle   golden/checkpoint_layout (every name and shape)
/// deviates none
#include <optional>
#include <string>
#include <vector>

#include "../attn/weights.hpp"
#include "../mhc/weights.hpp"
#include "../moe/weights.hpp"

namespace dsv4 {

template <class Storage = storage::stored>
struct block_weights {
  hyper_connection_weights<Storage> hc_attn, hc_ffn;
  typename Storage::template values<1> attn_norm, ffn_norm;  // [D]
  attention_weights<Storage> attn;
  moe_weights<Storage> ffn;
};

/// The multi-token-prediction module: two projections, a whole block, its own read-out.
template <class Storage = storage::stored>
struct mtp_weights {
  typename Storage::template values<1> enorm, hnorm;  // [D]
  typename Storage::matrix e_proj, h_proj;            // [D, D]
  block_weights<Storage> block;
  hyper_connection_weights<Storage> hc_head;
  typename Storage::template values<1> norm;  // [D]
};

/// A DSpark drafter (dspark.hpp): its stages are whole blocks that see a window; the first one's tensors carry the
/// projection of the context, the last one's the heads.
template <class Storage = storage::stored>
struct dspark_weights {
  typename Storage::matrix main_proj;              // [D, l D]
  typename Storage::template values<1> main_norm;  // [D]
  std::vector<block_weights<Storage>> stages;
  hyper_connection_weights<Storage> hc_head;
  typename Storage::template values<1> norm;  // [D]
  typename Storage::matrix markov_w1;         // [vocab, r]
  typename Storage::matrix markov_w2;         // [vocab, r]
  typename Storage::matrix confidence;        // [1, D + r]
};

template <class Storage = storage::stored>
struct model_weights {
  typename Storage::matrix embed;  // [vocab, D]
  std::vector<block_weights<Storage>> layers;
  hyper_connection_weights<Storage> hc_head;
  typename Storage::template values<1> norm;  // [D]
  typename Storage::matrix head;              // [vocab, D]
  std::vector<mtp_weights<Storage>> mtp;
  std::optional<dspark_weights<Storage>> dspark;  // in place of mtp
  /// Why mtp is empty although the files hold mtp.*: the drafter of another kind that they are, in words.
  std::string foreign_drafter;
};

/// Why a model has no multi-token prediction, to be put behind who asks for it.
template <class Storage>
std::string no_mtp(const model_weights<Storage>& w) {
  if (w.dspark) return ": this checkpoint has no MTP module: the tensors under mtp.* are a DSpark drafter";
  if (!w.foreign_drafter.empty()) return ": not implemented for this checkpoint: " + w.foreign_drafter;
  return ": this checkpoint has no MTP module (mtp.0.*)";
}

template <class Walk, class... W>
void walk_block(Walk& at, index_t ratio, bool hash, W&... w) {
  const index_t n = at.c.hc_mult;
  const weight_axis hidden{at.c.hidden_size, channel_kind::hidden};
  walk_hyper_connection(at, "hc_attn", {n, n, n * n}, w.hc_attn...);
  at(norm_weight("attn_norm", hidden), w.attn_norm...);
  at.in("attn.", [&] { walk_attention(at, ratio, w.attn...); });
  walk_hyper_connection(at, "hc_ffn", {n, n, n * n}, w.hc_ffn...);
  at(norm_weight("ffn_norm", hidden), w.ffn_norm...);
  at.in("ffn.", [&] { walk_moe(at, hash, w.ffn...); });
}

template <class Walk, class... W>
void walk_mtp(Walk& at, index_t ratio, W&... w) {
  const weight_axis hidden{at.c.hidden_size, channel_kind::hidden};
  at(norm_weight("enorm", hidden), w.enorm...);
  at(norm_weight("hnorm", hidden), w.hnorm...);
  at(projection_weight("e_proj", hidden, hidden), w.e_proj...);
  at(projection_weight("h_proj", hidden, hidden), w.h_proj...);
  walk_block(at, ratio, false, w.block...);
  walk_hyper_connection(at, "hc_head", {at.c.hc_mult}, w.hc_head...);
  at(norm_weight("norm", hidden), w.norm...);
}

template <class Walk, class... W>
void walk_dspark(Walk& at, W&... w) {
  const config& c = at.c;
  const dspark_config& d = c.dspark;
  const weight_axis hidden{c.hidden_size, channel_kind::hidden};
  const auto table = [&](const char* name) {
    return weight_info(name, {c.vocab_size, d.markov_rank}, weight_format::bfloat16, update_rule::adamw,
                       initial_value::embedding);
  };
  const std::size_t stages = detail::first_of(w...).stages.size();
  for (std::size_t s = 0; s < stages; ++s)
    at.in("mtp." + std::to_string(s) + ".", [&] {
      if (s == 0) {
        at(projection_weight("main_proj", hidden,
                             static_cast<index_t>(d.target_layers.size()) * c.hidden_size),
           w.main_proj...);
        at(norm_weight("main_norm", hidden), w.main_norm...);
      }
      walk_block(at, 0, false, w.stages[s]...);
      if (s + 1 < stages) return;
      walk_hyper_connection(at, "hc_head", {c.hc_mult}, w.hc_head...);
      at(norm_weight("norm", hidden), w.norm...);
      at(table("markov_head.markov_w1.weight"), w.markov_w1...);
      at(table("markov_head.markov_w2.weight"), w.markov_w2...);
      at(plain_weight("confidence_head.proj", 1, c.hidden_size + d.markov_rank), w.confidence...);
    });
}

template <class Walk, class... W>
void walk_model(Walk& at, W&... w) {
  const config& c = at.c;
  const weight_axis hidden{c.hidden_size, channel_kind::hidden};
  const auto table = [&](const char* name, initial_value start) {
    return weight_info(name, {c.vocab_size, hidden}, weight_format::bfloat16, update_rule::adamw, start);
  };
  at(table("embed.weight", initial_value::embedding), w.embed...);
  for (std::size_t l = 0; l < detail::first_of(w...).layers.size(); ++l) {
    const auto layer = static_cast<index_t>(l);
    at.in("layers." + std::to_string(l) + ".",
          [&] { walk_block(at, c.ratio(layer), c.is_hash_layer(layer), w.layers[l]...); });
  }
  walk_hyper_connection(at, "hc_head", {c.hc_mult}, w.hc_head...);
  at(norm_weight("norm", hidden), w.norm...);
  at(table("head.weight", initial_value::head), w.head...);
  for (std::size_t b = 0; b < detail::first_of(w...).mtp.size(); ++b)
    at.in("mtp." + std::to_string(b) + ".",
          [&] { walk_mtp(at, c.mtp_ratio(static_cast<index_t>(b)), w.mtp[b]...); });
  if (detail::first_of(w...).dspark) walk_dspark(at, *w.dspark...);
}

/// f(const weight_info&, field...) for every weight of the trees `w`, which have the same parts (the first is asked).
template <class F, class... W>
void each_weight_of(const config& c, F&& f, W&... w) {
  weight_walk<std::remove_reference_t<F>> at(c, f);
  walk_model(at, w...);
}
/// f(const weight_info&, field) for every weight.
template <class W, class F>
void each_weight(W&& w, const config& c, F&& f) {
  each_weight_of(c, f, w);
}

/// The parts of a block: compressor and indexer by the ratio, `experts` routed experts.
template <class Storage>
block_weights<Storage> weight_tree_of_block(index_t ratio, index_t experts) {
  block_weights<Storage> b;
  const attention_kind kind = kind_of_ratio(ratio);
  if (kind != attention_kind::window) b.attn.compressor.emplace();
  if (kind == attention_kind::csa) b.attn.indexer.emplace();
  b.ffn.experts.resize(static_cast<std::size_t>(experts));
  return b;
}

template <class Storage>
dspark_weights<Storage> weight_tree_of_drafter(index_t stages, index_t experts) {
  dspark_weights<Storage> d;
  for (index_t s = 0; s < stages; ++s) d.stages.push_back(weight_tree_of_block<Storage>(0, experts));
  return d;
}

/// All parts of a configuration's model, every field empty.  `mtp_blocks`, `dspark_stages`: a checkpoint may lack those
/// that its configuration has.  `experts`: of each layer; counting needs but one.
template <class Storage>
model_weights<Storage> weight_tree(const config& c, index_t mtp_blocks, index_t experts,
                                   index_t dspark_stages = 0) {
  model_weights<Storage> w;
  for (index_t l = 0; l < c.num_hidden_layers; ++l)
    w.layers.push_back(weight_tree_of_block<Storage>(c.ratio(l), experts));
  w.mtp.resize(static_cast<std::size_t>(mtp_blocks));
  for (index_t b = 0; b < mtp_blocks; ++b)
    w.mtp[static_cast<std::size_t>(b)].block = weight_tree_of_block<Storage>(c.mtp_ratio(b), experts);
  if (dspark_stages > 0) w.dspark = weight_tree_of_drafter<Storage>(dspark_stages, experts);
  return w;
}
template <class Storage>
model_weights<Storage> weight_tree(const config& c) {
  return weight_tree<Storage>(c, c.num_nextn_predict_layers, c.n_routed_experts, c.dspark.stages);
}

/// The same tree in another storage: f(const weight_info&, const field of `from`, field of the result) fills it.
template <class To, class From, class F>
model_weights<To> map_weights(const model_weights<From>& from, const config& c, F&& f) {
  auto to = weight_tree<To>(c, static_cast<index_t>(from.mtp.size()), c.n_routed_experts,
                            from.dspark ? static_cast<index_t>(from.dspark->stages.size()) : 0);
  each_weight_of(c, f, from, to);
  return to;
}

}  // namespace dsv4
