// SPDX-License-Identifier: MIT
#pragma once
/// The latest values of a run by site, and the earlier rows that operators look back to: what an operator
/// can be recomputed from while the run is at it.
#include <map>

#include "../../core/tensor.hpp"
#include "../../num/round.hpp"
#include "../bundle/sinks.hpp"

namespace dsv4::golden {

/// Rows of doubles.
struct value_rows {
  index_t first = 0;  ///< number of row 0: a position or an entry
  index_t width = 0;
  std::vector<double> v;
  index_t rows() const { return width ? static_cast<index_t>(v.size()) / width : 0; }
  std::span<const double> row(index_t r) const { return {v.data() + (r - first) * width, usize(width)}; }
  bool has(index_t from, index_t to) const { return from >= first && to <= first + rows(); }
};

class operator_memory {
 public:
  /// `only`: remember this scope's values alone (and the streams that enter it).
  explicit operator_memory(const config& c, std::function<bool(const tap_scope&)> only = {})
      : c_(c), only_(std::move(only)) {}

  void remember(const tap_event& e) {
    if (e.where == site::out) keep(streams_[{e.scope.where, e.scope.number, e.sequence}], e, false);
    if (only_ && !only_(e.scope)) return;
    const bool history = e.where == site::attn_norm || e.where == site::attn_kv ||
                         e.where == site::compressor_entry || e.where == site::indexer_compressor_entry;
    if (now_ != std::pair(e.scope.where, e.scope.number))
      latest_.clear(), now_ = {e.scope.where, e.scope.number};
    if (history)
      keep(history_[{e.scope.where, e.scope.number, e.where, e.sequence}], e, true);
    else
      keep(latest_[{e.where, e.sequence}], e, false);
  }

  /// The current call's value of a site of the current scope; null if it has not come by.
  const value_rows* latest(site s, index_t sequence) const {
    const auto at = latest_.find({s, sequence});
    return at == latest_.end() ? nullptr : &at->second;
  }
  /// All rows so far of attn_norm, attn.kv and the entries.
  const value_rows* history(const tap_scope& scope, site s, index_t sequence) const {
    const auto at = history_.find({scope.where, scope.number, s, sequence});
    return at == history_.end() ? nullptr : &at->second;
  }
  /// `out` of a block in its latest call.
  const value_rows* streams(const tap_scope& scope, index_t sequence) const {
    const auto at = streams_.find({scope.where, scope.number, sequence});
    return at == streams_.end() ? nullptr : &at->second;
  }

 private:
  void keep(value_rows& to, const tap_event& e, bool append) {
    const index_t first =
        is_entry_site(e.where) ? e.start / std::max<index_t>(1, ratio_of(e.scope, c_)) : e.start;
    const index_t rows = e.shape[0];
    to.width = rows ? e.size() / rows : to.width;
    if (!append || to.v.empty()) to.first = first, to.v.clear();
    to.v.resize(usize(std::max<index_t>(0, first - to.first) * to.width));  // rows of a rewind go
    for (index_t i = 0; i < e.size(); ++i) to.v.push_back(element(e, i));
  }

  const config& c_;
  std::function<bool(const tap_scope&)> only_;
  std::pair<tap_scope::part, index_t> now_{tap_scope::part::head, -1};
  std::map<std::pair<site, index_t>, value_rows> latest_;
  std::map<std::tuple<tap_scope::part, index_t, site, index_t>, value_rows> history_;
  std::map<std::tuple<tap_scope::part, index_t, index_t>, value_rows> streams_;
};

/// Rows [from, to) as a tensor of activations.
template <class A>
tensor<A, 2> rows_as(const value_rows& v, index_t from, index_t to) {
  tensor<A, 2> t(to - from, v.width);
  const double* p = v.v.data() + (from - v.first) * v.width;
  for (index_t i = 0; i < t.size(); ++i) {
    if constexpr (std::is_same_v<A, double>)
      t.data()[i] = p[i];
    else
      t.data()[i] = store<A>(p[i]);
  }
  return t;
}

}  // namespace dsv4::golden
