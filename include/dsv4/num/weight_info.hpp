// SPDX-License-Identifier: MIT
#pragma once
/// What is known of a weight before its first byte, how weights may be held, and how a tree of them is walked.
/// @paper{DSV4, section 2.4 (which weights Muon updates) and 5.2.1 (which are quantised)}
/// axes     o output row · i input column
/// oracle   golden/checkpoint_layout (every name and shape); reference_tests/lint/check_weight_tree.py
/// deviates where the paper is silent (docs/deviations.md, "Training"): sinks and the positional biases of the
///          compressors go to AdamW; what the paper writes as separate matrices is separate for Muon too
///
/// The weights of a model are one tree of structs (model/weights.hpp).  Each struct is a template over its storage,
/// which says what a matrix, a vector and a table are there, and stands beside one function that walks it.  That
/// walk is the only place where a weight's name, shape and rules are written; reading, writing, training, hashing
/// and permuting weights are visitors of it, called once per weight as
///
///   f(const weight_info&, field...)        one field of each tree that is walked, all in the same place
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/config.hpp"
#include "../core/tensor.hpp"
#include "block_scaled.hpp"

namespace dsv4 {

/// How the published checkpoint stores a weight.
enum class weight_format {
  f32,
  bfloat16,
  fp8,  ///< e4m3, one power-of-two scale per 128 x 128
  fp4,  ///< e2m1, one per row and 32 columns
  i64,  ///< ids, no numbers
};

/// Who changes a weight in training.
enum class update_rule {
  muon,     ///< matrices: projections, experts, routers, W of mHC
  adamw,    ///< embedding, head, norms, S and alpha of mHC, sinks, positional biases
  routing,  ///< nobody by gradient: the selection bias balances the load, the tables of hash layers stay
};

/// What a weight is before the first step of training.
enum class initial_value { normal, zero, one, embedding, head, hyper_mix, hyper_alpha };

/// Which channels an axis counts.  Axes of one kind have one order in the whole model: a permutation of the hidden
/// channels moves every axis that is marked as them.
enum class channel_kind {
  other,
  hidden,       ///< [D]
  streams,      ///< [n D]: the hidden channels of each residual stream in turn
  query_rank,   ///< [qr]
  output_rank,  ///< [g r]: the ranks of each group in turn
  inner,        ///< [I]
};
struct weight_axis {
  index_t size;
  channel_kind is;
  constexpr weight_axis(index_t n, channel_kind c = channel_kind::other) : size(n), is(c) {}
};

struct weight_info {
  std::string name;            ///< as in a hub checkpoint
  std::vector<index_t> shape;  ///< [n] or [o, i]
  std::vector<channel_kind> channels;
  weight_format format = weight_format::f32;
  update_rule rule = update_rule::adamw;
  initial_value start = initial_value::normal;
  /// Rows of each logically independent matrix, in order: Muon treats each by itself.  Vectors have none.
  std::vector<index_t> matrices;
  index_t expert = -1;  ///< number of the routed expert that it belongs to, or -1

  weight_info(std::string n, const std::vector<weight_axis>& axes, weight_format f, update_rule r,
              initial_value s = initial_value::normal)
      : name(std::move(n)), format(f), rule(r), start(s) {
    for (const weight_axis& a : axes) shape.push_back(a.size), channels.push_back(a.is);
    if (axes.size() == 2) matrices = {axes[0].size};
  }
  /// The same, whose rows are these matrices one below another.
  weight_info of_matrices(std::vector<index_t> rows) && {
    matrices = std::move(rows);
    return std::move(*this);
  }

  index_t size() const {
    index_t n = 1;
    for (const index_t s : shape) n *= s;
    return n;
  }
  /// Of a matrix; 0 of a vector.
  index_t columns() const { return shape.size() == 2 ? shape[1] : 0; }
  /// The name of the scales, should the weight be quantised: "x.weight" has "x.scale", "y_fn" has "y_fn.scale".
  std::string scale_name() const {
    constexpr std::string_view ending = ".weight";
    const std::string_view whole = name;
    return std::string(whole.ends_with(ending) ? whole.substr(0, whole.size() - ending.size()) : whole) +
           ".scale";
  }
};

// The kinds that occur more than once; `stem` is the name without ".weight".
inline weight_info plain_weight(std::string_view stem, weight_axis o, weight_axis i) {
  return {std::string(stem) + ".weight", {o, i}, weight_format::bfloat16, update_rule::muon};
}
inline weight_info projection_weight(std::string_view stem, weight_axis o, weight_axis i) {
  return {std::string(stem) + ".weight", {o, i}, weight_format::fp8, update_rule::muon};
}
inline weight_info norm_weight(std::string_view stem, weight_axis n) {
  return {
      std::string(stem) + ".weight", {n}, weight_format::bfloat16, update_rule::adamw, initial_value::one};
}

template <class Mem>
struct basic_expert_table;

/// Storages: what a matrix, a small vector, a gate's bias and a hash layer's table are in a tree of weights.
namespace storage {

/// In the formats of a checkpoint, in one memory space.  Matrices and tables are views (of the checkpoint's files, of
/// what was uploaded); what is small (norms, biases, sinks, ape) is decoded to float, which is exact for F32, BF16 and
/// F16.
template <class Mem>
struct in_memory {
  using matrix = basic_weight_matrix<Mem>;
  template <int R>
  using values = tensor<float, R, Mem>;
  using bias = tensor<float, 1, Mem>;
  using table = basic_expert_table<Mem>;
};
/// As a checkpoint holds them.
using stored = in_memory<mem::host>;

/// The tree alone, for visitors that only want to know what there is.
struct none {
  struct absent {};
  using matrix = absent;
  template <int R>
  using values = absent;
  using bias = absent;
  using table = absent;
};

}  // namespace storage

/// How an executor's kernels take the weights.
template <execution E>
using storage_of = storage::in_memory<mem_of<E>>;

/// Completes names on the way down, and calls f at every weight.
template <class F>
class weight_walk {
 public:
  const config& c;

  weight_walk(const config& configuration, F& f) : c(configuration), f_(f) {}

  template <class... Field>
  void operator()(weight_info info, Field&... field) {
    info.name.insert(0, prefix_);
    info.expert = expert_;
    f_(std::as_const(info), field...);
  }
  /// What `body` walks has names that begin with `part`.
  template <class Body>
  void in(std::string_view part, Body&& body) {
    const std::size_t before = prefix_.size();
    prefix_ += part;
    body();
    prefix_.resize(before);
  }
  /// What `body` walks belongs to routed expert e.
  template <class Body>
  void in_expert(index_t e, Body&& body) {
    expert_ = e;
    in("experts." + std::to_string(e) + ".", body);
    expert_ = -1;
  }

 private:
  F& f_;
  std::string prefix_;
  index_t expert_ = -1;
};

namespace detail {
/// Of several trees the one that is asked which optional parts there are, and how many of each part: the first.
template <class First, class... Rest>
const First& first_of(const First& first, const Rest&...) {
  return first;
}
}  // namespace detail

}  // namespace dsv4
