// SPDX-License-Identifier: MIT
#pragma once
/// What is trained: every parameter by its hub name, its place in one flat buffer, and who updates it.
/// @paper{DSV4, section 2.4: the split between Muon and AdamW}
/// axes     o output row · i input column (docs/notation.md for the others)
/// oracle   golden/transformers/seed0/grads.safetensors (names and shapes)
/// deviates num/weight_info.hpp
///
/// Weights, gradients and momenta are buffers of one layout.  `bind` gives a buffer its structure: the tree of
/// model/weights.hpp over views, the same one for weights (const T) and gradients (T).  The selection bias of a gate and the table of a
/// hash layer have no gradient; they live in `routing_tables`.
#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "../core/config.hpp"
#include "../core/contract.hpp"
#include "../core/tensor.hpp"
#include "../model/weights.hpp"

namespace dsv4::storage {

/// Weights as views of one buffer.  What decides routing without a gradient is not among them.
template <class T>
struct trained {
  using matrix = view<T, 2>;
  template <int R>
  using values = view<T, R>;
  using bias = none::absent;
  using table = none::absent;
};

}  // namespace dsv4::storage

namespace dsv4::train {

/// A weight that is trained, and its place.
struct parameter_info : weight_info {
  index_t offset = 0;  ///< of its first element in the buffer
};

template <class T>
using hyper_parameters = hyper_connection_weights<storage::trained<T>>;
template <class T>
using compressor_parameters = compressor_weights<storage::trained<T>>;
template <class T>
using indexer_parameters = indexer_weights<storage::trained<T>>;
template <class T>
using attention_parameters = attention_weights<storage::trained<T>>;
template <class T>
using gate_parameters = gate_weights<storage::trained<T>>;
template <class T>
using expert_parameters = expert_weights<storage::trained<T>>;
template <class T>
using moe_parameters = moe_weights<storage::trained<T>>;
template <class T>
using block_parameters = block_weights<storage::trained<T>>;
template <class T>
using mtp_parameters = mtp_weights<storage::trained<T>>;
template <class T>
using model_parameters = model_weights<storage::trained<T>>;

namespace detail {

/// Calls f(const weight_info&, offset, field of `w`) for every weight that is trained; gives the size of a buffer.
/// Every parameter begins on a cache line.
template <class T, class F>
index_t each_parameter(model_parameters<T>& w, const config& c, F&& f) {
  constexpr index_t line = static_cast<index_t>(alignment / sizeof(T));
  index_t offset = 0;
  each_weight(w, c, [&](const weight_info& i, auto& field) {
    if (i.rule == update_rule::routing) return;
    f(i, offset, field);
    offset += (i.size() + line - 1) / line * line;
  });
  return offset;
}

}  // namespace detail

/// Names, shapes, places and rules of all parameters of a configuration.
struct parameter_layout {
  std::vector<parameter_info> all;
  index_t size = 0;  ///< elements of a buffer, padding included

  template <class T = float>
  static parameter_layout of(const config& c) {
    parameter_layout l;
    auto w = weight_tree<storage::trained<T>>(c);
    l.size = detail::each_parameter<T>(
        w, c, [&](const weight_info& i, index_t offset, auto&) { l.all.push_back({i, offset}); });
    return l;
  }
  const parameter_info* find(std::string_view name) const {
    for (const parameter_info& p : all)
      if (p.name == name) return &p;
    return nullptr;
  }
};

/// The structure of a buffer made for parameter_layout::of<T>(c).  T: const for weights.
template <class T>
model_parameters<T> bind(const config& c, T* buffer) {
  auto w = weight_tree<storage::trained<T>>(c);
  detail::each_parameter<T>(w, c, [&](const weight_info& i, index_t offset, auto& field) {
    using field_t = std::remove_reference_t<decltype(field)>;
    if constexpr (std::is_same_v<field_t, view<T, 1>>)
      field = {buffer + offset, i.shape[0]};
    else if constexpr (std::is_same_v<field_t, view<T, 2>>)
      field = {buffer + offset, i.shape[0], i.shape[1]};
  });
  return w;
}

namespace detail {

template <class T>
void decode(const weight_matrix& from, view<T, 2> to) {
  for (index_t o = 0; o < to.extent(0); ++o)
    for (index_t i = 0; i < to.extent(1); ++i) to(o, i) = static_cast<T>(from.at(o, i));
}
template <class T, int R>
void decode(const tensor<float, R>& from, view<T, R> to) {
  std::copy_n(from.data(), to.size(), to.data());
}

}  // namespace detail

/// Every weight of `from` into the same place of `to`, quantised ones decoded, code times scale.
template <class T>
void decode_weights(const model_weights<>& from, const config& c, const model_parameters<T>& to) {
  each_weight_of(
      c,
      [](const weight_info&, const auto& trained, const auto& stored) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(trained)>, storage::none::absent>)
          detail::decode(stored, trained);
      },
      to, from);
}

/// What decides routing and has no gradient: one entry per layer, then one per MTP block.
struct routing_tables {
  std::vector<tensor<float, 1>> bias;          // [E]         learned layers; empty in hash layers
  std::vector<tensor<std::int32_t, 2>> table;  // [vocab, k]  hash layers; empty in learned ones
};

}  // namespace dsv4::train
