// SPDX-License-Identifier: MIT
#pragma once
/// What the state of a sequence is: the arrays that decide, together with the weights, everything that the
/// model will say next.
/// @paper{DSV4, section 3.5.1}
///
/// Of a sequence of length P that can go back to the floor F <= P, each layer remembers, by position:
///
///   window       rows [F - W + 1, P)              the query at F sees W - 1 rows before it
///   compressor   kv and score rows [b, P)         b: first token of the block that is open at F, and for CSA
///                                                 of the block before it
///   entries      [0, P / ratio)
///
/// and a CSA layer a second compressor, the indexer's.  The MTP block has its own P and F.  Nothing else is
/// state: rings (attn/kv_cache.hpp) are a way to keep these rows, and where in the ring a row lies is no part
/// of it.  Axes: p position · d channel.
#include <algorithm>
#include <string>
#include <utility>

#include "../model/transformer.hpp"

namespace dsv4 {

/// Positions [from, to).
struct position_range {
  index_t from = 0, to = 0;
  index_t count() const { return to - from; }
  friend bool operator==(const position_range&, const position_range&) = default;
};

/// How long a sequence is and how far back it can go.
struct sequence_extent {
  index_t length = 0, floor = 0;          ///< tokens
  index_t mtp_length = 0, mtp_floor = 0;  ///< pairs of the MTP block
};

/// Window rows of which a sequence in [floor, length] may need one.
constexpr position_range window_rows(index_t window, index_t floor, index_t length) {
  return {std::max(index_t{0}, floor - window + 1), length};
}
/// The same of a compressor's projections.
constexpr position_range projection_rows(index_t ratio, index_t floor, index_t length) {
  const index_t block = floor / ratio * ratio;
  const index_t before = kind_of_ratio(ratio) == attention_kind::csa ? ratio : 0;
  return {std::max(index_t{0}, block - before), length};
}

/// The inside of a sequence, for those who write it down (state_file.hpp) or begin one (prefix_cache.hpp).
template <numerics_policy P, execution E>
struct sequence_access {
  using sequence_type = sequence<P, E>;

  /// Whether it was made for a model of this configuration.
  static bool fits(const sequence_type& s, const config& c) { return s.fits(c); }
  /// @throws contract_violation for a sequence that a failed call has left without rows that it needs
  static void expect_intact(const sequence_type& s) {
    s.expect_intact();
    s.expect_mtp_intact();
  }

  /// Fingerprint of the weights that have read its tokens; 0: none have, or it was loaded and they are not known.
  static std::uint64_t weights(const sequence_type& s) { return s.weights_; }
  static bool can_go_on_with(const sequence_type& s, std::uint64_t fingerprint) {
    return s.can_go_on_with(fingerprint);
  }

  static sequence_extent extent(const sequence_type& s) {
    return {s.length_, std::max(index_t{0}, s.rewind_limit()), s.mtp_length_,
            std::max(index_t{0}, s.mtp_rewind_limit())};
  }
  /// Declares that the rows of x have been filled in.
  static void set_extent(sequence_type& s, const sequence_extent& x) {
    s.length_ = s.high_water_ = x.length;
    s.floor_ = x.floor;
    s.mtp_length_ = s.mtp_high_water_ = x.mtp_length;
    s.mtp_floor_ = x.mtp_floor;
  }

  static attention_state<P, E>& layer(sequence_type& s, index_t l) { return s.state(l); }
  static const attention_state<P, E>& layer(const sequence_type& s, index_t l) { return s.layer(l); }

  /// Entries of the layers below `position` are there; forward() leaves them as they are.  0: it makes all.
  static void give_entries(sequence_type& s, const config& c, index_t position) {
    for (index_t l = 0; l < c.num_hidden_layers; ++l)
      if (const index_t ratio = c.ratio(l); ratio > 0)
        s.state(l).compressor.reused_entries = s.state(l).indexer.reused_entries = position / ratio;
  }

  /// f(name, rows, range) for every array: rows is a history or, for entries, a tensor.
  template <class Sequence, class F>
  static void each_array(Sequence& s, const config& c, const sequence_extent& x, F&& f) {
    for (index_t l = 0; l < c.num_hidden_layers; ++l)
      each_of_layer(layer(s, l), "layers." + std::to_string(l), c, c.ratio(l), x.floor, x.length, f);
    if (c.num_nextn_predict_layers > 0 &&
        static_cast<index_t>(c.compress_ratios.size()) > c.num_hidden_layers)
      each_of_layer(layer(s, c.num_hidden_layers), "mtp.0", c, c.mtp_ratio(), x.mtp_floor, x.mtp_length, f);
  }

 private:
  template <class State, class F>
  static void each_of_layer(State& state, const std::string& name, const config& c, index_t ratio,
                            index_t floor, index_t length, F&& f) {
    f(name + ".window", state.window, window_rows(c.sliding_window, floor, length));
    const auto compressor = [&](const std::string& who, auto& of) {
      f(who + ".kv", of.kv, projection_rows(ratio, floor, length));
      f(who + ".score", of.score, projection_rows(ratio, floor, length));
      f(who + ".entries", of.entries, position_range{0, length / ratio});
    };
    if (ratio > 0) compressor(name + ".compressor", state.compressor);
    if (kind_of_ratio(ratio) == attention_kind::csa) compressor(name + ".indexer", state.indexer);
  }
};

// Rows of a history and of a list of entries, the same way, to and from host memory.

namespace detail {
template <class T, class Mem>
T element(const history<T, Mem>&);
template <class T, class Mem>
T element(const tensor<T, 2, Mem>&);
}  // namespace detail
template <class Rows>
using element_of = decltype(detail::element(std::declval<Rows>()));

template <class T, class Mem>
index_t width_of(const history<T, Mem>& h) {
  return h.width();
}
template <class T, class Mem>
index_t width_of(const tensor<T, 2, Mem>& entries) {
  return entries.extent(1);
}
template <execution E, class T, class Mem>
void read_rows(E& e, const history<T, Mem>& h, position_range r, view<T, 2> out /*[p,d]*/) {
  h.read(e, r.from, r.to, out);
}
template <execution E, class T, class Mem>
void read_rows(E& e, const tensor<T, 2, Mem>& entries, position_range r, view<T, 2> out /*[p,d]*/) {
  copy(e, entries.all().rows(r.from, r.to), out);
}
template <execution E, class T, class Mem>
void write_rows(E& e, history<T, Mem>& h, position_range r, view<const T, 2> rows /*[p,d]*/) {
  h.write(e, r.from, rows);
}
template <execution E, class T, class Mem>
void write_rows(E& e, tensor<T, 2, Mem>& entries, position_range r, view<const T, 2> rows /*[p,d]*/) {
  copy(e, rows, entries.all().rows(r.from, r.to));
}

}  // namespace dsv4
