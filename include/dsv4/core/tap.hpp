// SPDX-License-Identifier: MIT
#pragma once
/// Taps: every intermediate of the model has a site name, and an observer may look at it, or replace
/// it, while it is alive.  An observer is a compile-time parameter: with `no_tap` there is no code.
///
/// A site's full name is the scope's prefix and the name in the table below, for example
/// `layers.3.attn.q_rope`, `mtp.0.out`, `head.logits`; bundles and docs/numerics.md use the same names.
/// Events come per sequence, in the order of execution, before anything reads the value; writing
/// through `data` therefore changes what follows (forced routing, teacher forcing).
#include <array>
#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "dtype.hpp"
#include "tensor.hpp"

namespace dsv4 {

// clang-format off: one line per step of the model, not per name
enum class site : std::uint8_t {
  hc_attn_mixes, hc_attn_pre, hc_attn_post, hc_attn_comb, hc_attn_y,
  attn_norm,
  attn_qr, attn_q_norm, attn_q_rope, attn_kv_norm, attn_kv,
  indexer_q_had, indexer_q,
  indexer_compressor_pooled, indexer_compressor_norm, indexer_compressor_entry,
  indexer_weights, indexer_scores,
  compressor_pooled, compressor_norm, compressor_entry,
  attn_topk_idxs, attn_o, attn_o_derot, attn_o_lora, attn_out,
  mid,
  hc_ffn_mixes, hc_ffn_pre, hc_ffn_post, hc_ffn_comb, hc_ffn_y,
  ffn_norm,
  gate_scores, gate_biased, gate_indices, gate_weights,
  ffn_routed, ffn_shared, ffn_out,
  out,
  hc_head_pre, hc_head_y, head_norm, logits,
  count
};
// clang-format on

/// How a site's value is stored: as an activation of the policy, wide, or as integers.
enum class site_class : std::uint8_t { activation, wide, integer };

struct site_info {
  std::string_view name;  ///< without the scope's prefix
  std::string_view axes;  ///< one letter per axis, docs/notation.md; c closed entries, s slots
  site_class kind;
};

/// The one list of sites, in the order of execution.
inline constexpr std::array<site_info, static_cast<std::size_t>(site::count)> sites{{
    {"hc_attn.mixes", "t m", site_class::wide},
    {"hc_attn.pre", "t n", site_class::wide},
    {"hc_attn.post", "t n", site_class::wide},
    {"hc_attn.comb", "t n n", site_class::wide},
    {"hc_attn.y", "t d", site_class::activation},
    {"attn_norm", "t d", site_class::activation},
    {"attn.qr", "t q", site_class::activation},
    {"attn.q_norm", "t h d", site_class::activation},
    {"attn.q_rope", "t h d", site_class::activation},
    {"attn.kv_norm", "t d", site_class::activation},
    {"attn.kv", "t d", site_class::activation},
    {"attn.indexer.q_had", "t h d", site_class::activation},
    {"attn.indexer.q", "t h d", site_class::activation},
    {"attn.indexer.compressor.pooled", "c d", site_class::activation},
    {"attn.indexer.compressor.norm", "c d", site_class::activation},
    {"attn.indexer.compressor.entry", "c d", site_class::activation},
    {"attn.indexer.weights", "t h", site_class::activation},
    {"attn.indexer.scores", "t c", site_class::activation},
    {"attn.compressor.pooled", "c d", site_class::activation},
    {"attn.compressor.norm", "c d", site_class::activation},
    {"attn.compressor.entry", "c d", site_class::activation},
    {"attn.topk_idxs", "t s", site_class::integer},
    {"attn.o", "t h d", site_class::activation},
    {"attn.o_derot", "t h d", site_class::activation},
    {"attn.o_lora", "t g r", site_class::activation},
    {"attn.out", "t d", site_class::activation},
    {"mid", "t n d", site_class::activation},
    {"hc_ffn.mixes", "t m", site_class::wide},
    {"hc_ffn.pre", "t n", site_class::wide},
    {"hc_ffn.post", "t n", site_class::wide},
    {"hc_ffn.comb", "t n n", site_class::wide},
    {"hc_ffn.y", "t d", site_class::activation},
    {"ffn_norm", "t d", site_class::activation},
    {"ffn.gate.scores", "t e", site_class::wide},
    {"ffn.gate.biased", "t e", site_class::wide},
    {"ffn.gate.indices", "t k", site_class::integer},
    {"ffn.gate.weights", "t k", site_class::wide},
    {"ffn.routed", "t d", site_class::wide},
    {"ffn.shared", "t d", site_class::activation},
    {"ffn.out", "t d", site_class::activation},
    {"out", "t n d", site_class::activation},
    {"hc_head.pre", "t n", site_class::wide},
    {"hc_head.y", "t d", site_class::activation},
    {"norm", "t d", site_class::activation},
    {"logits", "t v", site_class::wide},
}};

static_assert(!sites.back().name.empty(), "every site of the enumeration has its row in this table");

constexpr const site_info& info(site s) { return sites[static_cast<std::size_t>(s)]; }

/// Which part of the model an event belongs to.
struct tap_scope {
  enum class part : std::uint8_t { layer, mtp, head, mtp_head } where = part::layer;
  index_t number = 0;  ///< layer or MTP block

  /// "layers.3.", "mtp.0.", "head.", "mtp.0.head."
  std::string prefix() const {
    switch (where) {
      case part::layer: return "layers." + std::to_string(number) + ".";
      case part::mtp: return "mtp." + std::to_string(number) + ".";
      case part::mtp_head: return "mtp." + std::to_string(number) + ".head.";
      case part::head: return "head.";
    }
    return {};
  }
};

/// One value at one site, for one sequence of the batch, valid during the call.
struct tap_event {
  site where;
  tap_scope scope;
  index_t sequence;  ///< number in the batch
  index_t start;     ///< position of the call's first token in its sequence
  index_t tokens;    ///< tokens of this sequence in the call
  dtype type;        ///< bf16, f32, f64 or i32
  void* data;        ///< row-major, writable, in host memory
  int rank;
  std::array<index_t, 4> shape;

  std::string name() const { return scope.prefix() + std::string(info(where).name); }
  index_t size() const {
    index_t s = 1;
    for (int a = 0; a < rank; ++a) s *= shape[static_cast<std::size_t>(a)];
    return s;
  }
  template <class T>
  std::span<T> values() const {
    return {static_cast<T*>(data), static_cast<std::size_t>(size())};
  }
};

/// The observer that is not there.
struct no_tap {
  static constexpr bool on = false;
};

template <class T>
concept observer = !std::remove_reference_t<T>::on || requires(T& t, const tap_event& e) { t(e); };

/// Any observer behind one type.  The transformer is compiled for two observers, none and this one, so that a
/// program with ten kinds of observers does not contain, and does not compile, ten models.  It refers to the
/// observer, which must live as long as the call that it watches.
class any_tap {
 public:
  static constexpr bool on = true;

  template <class T>
    requires(!std::is_same_v<std::remove_const_t<T>, any_tap>)
  any_tap(T& observer)
      : observer_(const_cast<void*>(static_cast<const void*>(std::addressof(observer)))),
        show_([](void* to, const tap_event& e) { (*static_cast<T*>(to))(e); }) {}

  void operator()(const tap_event& e) const { show_(observer_, e); }

 private:
  void* observer_;
  void (*show_)(void*, const tap_event&);
};

/// The observer that the model is run with in the place of `tap`: none, or one behind any_tap.
template <observer T>
constexpr auto erased(T& tap) {
  if constexpr (T::on)
    return any_tap(tap);
  else
    return no_tap{};
}

/// The rows of one sequence in a flat batch of tokens.
struct segment {
  index_t begin = 0, end = 0;  ///< rows of the batch
  index_t start = 0;           ///< position of the first row in its sequence
  index_t sequence = 0;        ///< number of the sequence in the caller's batch
  index_t offset = 0;          ///< of the first row in the tokens the caller gave of this sequence
  bool last = true;            ///< the caller gave no more tokens of this sequence
  index_t tokens() const { return end - begin; }
};

/// What compositions hold to report their sites.  An executor that works in other memory shows a copy, and takes it
/// back in case it has been written to.
template <execution E, observer Tap>
struct tapper {
  E& e;
  Tap& tap;
  std::span<const segment> segments;
  tap_scope scope;

  /// A value with one row per token of the batch: one event per sequence.
  template <class T, int R>
  void rows(site s, const view<T, R, mem_of<E>>& v) const {
    if constexpr (Tap::on)
      for (std::size_t i = 0; i < segments.size(); ++i)
        one(s, static_cast<index_t>(i), v.rows(segments[i].begin, segments[i].end));
  }
  /// A list that has rows [begin, end) for the sequence of each part; none, no event.
  template <class T, int R, class Part>
  void parts(site s, const view<T, R, mem_of<E>>& v, const std::span<Part>& parts) const {
    if constexpr (Tap::on)
      for (std::size_t i = 0; i < parts.size(); ++i)
        if (parts[i].begin < parts[i].end)
          one(s, static_cast<index_t>(i), v.rows(parts[i].begin, parts[i].end));
  }
  /// A value of its own for each sequence: parts[i].*value.
  template <class Part, class Value>
  void each(site s, const std::span<Part>& parts, Value value) const {
    if constexpr (Tap::on)
      for (std::size_t i = 0; i < parts.size(); ++i) one(s, static_cast<index_t>(i), parts[i].*value);
  }
  /// A value that belongs to the sequence of one segment.
  template <class T, int R>
  void one(site s, index_t of_segment, const view<T, R, mem_of<E>>& v) const {
    static_assert(R <= 4);
    if constexpr (Tap::on) {
      if constexpr (host_execution<E>) {
        show(s, of_segment, v);
      } else {
        auto host = std::apply([](auto... n) { return tensor<T, R>(n...); }, v.extents());
        copy(e, v, host.all());
        show(s, of_segment, host.all());
        copy(e, host.all(), v);
      }
    }
  }

 private:
  template <class T, int R>
  void show(site s, index_t of_segment, view<T, R> v) const {
    if constexpr (Tap::on) {
      const segment& g = segments[static_cast<std::size_t>(of_segment)];
      tap_event event{s,        scope, g.sequence, g.start, g.tokens(), dtype_of<std::remove_const_t<T>>,
                      v.data(), R,     {}};
      for (int a = 0; a < R; ++a) event.shape[static_cast<std::size_t>(a)] = v.extent(a);
      tap(static_cast<const tap_event&>(event));
    }
  }
};

}  // namespace dsv4
