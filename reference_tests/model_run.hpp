// SPDX-License-Identifier: MIT
#pragma once
/// Running models in tests: logits as comparable rows, and observers that keep or change what they see.
#include <cmath>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "dsv4/model/transformer.hpp"
#include "random_model.hpp"

namespace dsv4_test {

/// Element i of an event's value, exact.
inline double element(const tap_event& e, index_t i) {
  const auto at = static_cast<std::size_t>(i);
  switch (e.type) {
    case dtype::bf16: return to_double(e.values<bf16>()[at]);
    case dtype::f32: return e.values<float>()[at];
    case dtype::f64: return e.values<double>()[at];
    default: return e.values<std::int32_t>()[at];
  }
}
inline void assign(const tap_event& e, index_t i, double x) {
  const auto at = static_cast<std::size_t>(i);
  switch (e.type) {
    case dtype::bf16: e.values<bf16>()[at] = round_bf16(x); break;
    case dtype::f32: e.values<float>()[at] = static_cast<float>(x); break;
    case dtype::f64: e.values<double>()[at] = x; break;
    default: e.values<std::int32_t>()[at] = static_cast<std::int32_t>(x);
  }
}

/// Keeps the values of every event of one sequence, by full name, calls one after the other.
struct recorder {
  static constexpr bool on = true;
  struct value {
    index_t width = 0;  ///< values per row (token or entry) of the last event
    std::vector<double> values;
    index_t rows() const { return width ? static_cast<index_t>(values.size()) / width : 0; }
    double operator()(index_t row, index_t i) const {
      return values.at(static_cast<std::size_t>(row * width + i));
    }
  };
  index_t sequence = 0;
  std::map<std::string, value> sites;

  void operator()(const tap_event& e) {
    if (e.sequence != sequence) return;
    value& v = sites[e.name()];
    v.width = e.shape[0] ? e.size() / e.shape[0] : 0;
    for (index_t i = 0; i < e.size(); ++i) v.values.push_back(element(e, i));
  }
  const value& at(const std::string& name) const {
    const auto found = sites.find(name);
    if (found == sites.end()) throw std::runtime_error("no event " + name);
    return found->second;
  }
};
/// Calls a function with every event.
template <class F>
struct on_event {
  static constexpr bool on = true;
  F f;
  void operator()(const tap_event& e) { f(e); }
};
template <class F>
on_event(F) -> on_event<F>;

/// Logits, one row per token.
template <class W>
struct rows_of {
  index_t width = 0;
  std::vector<W> values;

  index_t rows() const { return width ? static_cast<index_t>(values.size()) / width : 0; }
  std::span<const W> row(index_t t) const {
    return std::span<const W>(values).subspan(static_cast<std::size_t>(t * width),
                                              static_cast<std::size_t>(width));
  }
  void append(const rows_of& more) {
    width = more.width;
    values.insert(values.end(), more.values.begin(), more.values.end());
  }
  rows_of part(index_t from, index_t to) const {
    return {width, {values.begin() + from * width, values.begin() + to * width}};
  }
};
/// The first row in which a and b differ by a bit (as values; NaN differs), or their common length.
template <class W>
index_t first_difference(const rows_of<W>& a, const rows_of<W>& b) {
  const index_t n = std::min(a.rows(), b.rows());
  for (index_t t = 0; t < n; ++t)
    if (!std::equal(a.row(t).begin(), a.row(t).end(), b.row(t).begin())) return t;
  return n;
}
template <class W>
bool same(const rows_of<W>& a, const rows_of<W>& b) {
  return a.rows() == b.rows() && a.rows() > 0 && first_difference(a, b) == a.rows();
}
/// max |a - b| of rows [from, to).
template <class W>
double distance(const rows_of<W>& a, const rows_of<W>& b, index_t from, index_t to) {
  double worst = 0;
  for (index_t t = from; t < to; ++t)
    for (index_t i = 0; i < a.width; ++i)
      worst = std::max(worst, std::fabs(double(a.row(t)[std::size_t(i)]) - double(b.row(t)[std::size_t(i)])));
  return worst;
}
template <class W>
double distance(const rows_of<W>& a, const rows_of<W>& b) {
  return distance(a, b, 0, std::min(a.rows(), b.rows()));
}

/// A model and what tests do with it.
template <numerics_policy P, execution E>
struct runner {
  using model = transformer<P, E>;
  using sequence = typename model::sequence_type;
  using wide = wide_t<E>;
  using logits = rows_of<wide>;
  using ids_t = std::vector<std::int32_t>;

  model m;
  explicit runner(const random_model& r, E e = {}, index_t tokens_per_pass = 512)
      : m(r.c, r.weights, e, tokens_per_pass) {}
  runner(const config& c, const model_weights<>& w, E e = {}) : m(c, w, e) {}

  const config& c() const { return m.configuration(); }

  /// One call; every token's logits.  @throws std::runtime_error when one is not finite
  template <class Tap = no_tap>
  logits forward(sequence& s, std::span<const std::int32_t> ids, Tap&& tap = Tap{}) {
    tensor<wide, 2> out(static_cast<index_t>(ids.size()), c().vocab_size);
    m.forward(s, ids, out, tap);
    return finite(out);
  }
  /// ids in the given chunk lengths, the last repeats.
  template <class Tap = no_tap>
  logits forward(sequence& s, std::span<const std::int32_t> ids, const std::vector<index_t>& chunks,
                 Tap&& tap = Tap{}) {
    logits all;
    std::size_t chunk = 0;
    for (std::size_t p = 0; p < ids.size();) {
      const auto n =
          std::min(static_cast<std::size_t>(chunks[std::min(chunk++, chunks.size() - 1)]), ids.size() - p);
      all.append(forward(s, ids.subspan(p, n), tap));
      p += n;
    }
    return all;
  }
  /// A fresh sequence.
  template <class Tap = no_tap>
  logits fresh(std::span<const std::int32_t> ids, const std::vector<index_t>& chunks = {index_t{1} << 40},
               Tap&& tap = Tap{}) {
    sequence s = m.new_sequence(static_cast<index_t>(ids.size()));
    return forward(s, ids, chunks, tap);
  }

  static logits finite(const tensor<wide, 2>& out) {
    logits r{out.extent(1), {out.data(), out.data() + out.size()}};
    for (const wide v : r.values)
      if (!std::isfinite(v)) throw std::runtime_error("a logit is not finite");
    return r;
  }
};

}  // namespace dsv4_test
