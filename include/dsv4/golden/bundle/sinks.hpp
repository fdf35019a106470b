// SPDX-License-Identifier: MIT
#pragma once
/// Observers (core/tap.hpp) that do something with a run's values:
///
///   bundle_sink        records them into a bundle, with dependencies, and margins beside choices
///   statistics_sink    min, max, rms, NaN and infinity per name
///   comparison_sink    shows each with its golden counterpart to a `comparison`, storing nothing
///   callback_sink      calls a function
///   fan_out            several of them, in order
/// A sink that follows the calls of a bundle has begin_call, which the caller calls before forward or forward_mtp.
#include <map>
#include <set>

#include "bundle.hpp"
#include "bundle_writer.hpp"

namespace dsv4::golden {

inline double element(const tap_event& e, index_t i) {
  return element(e.type, static_cast<const std::byte*>(e.data), i);
}

/// "layers.3", "head", ….
inline std::string scope_name(const tap_scope& s) {
  std::string p = s.prefix();
  p.pop_back();
  return p;
}

/// The entry of an event, without what the writer adds.  Dependencies are those of the model.
inline tensor_entry entry_of(const tap_event& e, const config& c) {
  tensor_entry t;
  t.name = e.name();
  t.scope = scope_name(e.scope);
  t.site = info(e.where).name;
  t.layer = e.scope.where == tap_scope::part::head ? -1 : e.scope.number;
  t.sequence = e.sequence;
  t.from = e.start;
  t.to = e.start + e.tokens;
  if (is_entry_site(e.where)) {
    const index_t ratio = ratio_of(e.scope, c);
    t.first_entry = t.from / ratio, t.end_entry = t.to / ratio;
  }
  t.axes = axis_names(e.where);
  t.shape.assign(e.shape.begin(), e.shape.begin() + e.rank);
  t.carrier = e.type;
  for (const char x : name_of(e.type))
    t.logical += static_cast<char>(x >= 'A' && x <= 'Z' ? x - 'A' + 'a' : x);
  t.cls = facts(e.where).cls;
  dependencies d = dependencies_of(e.scope, e.where, c);
  t.deps = std::move(d.deps), t.state = std::move(d.state);
  return t;
}

/// Gaps of a choice of the k largest of `scores`, in falling order: how far the scores may move before
///   [0] another element is chosen (last chosen minus first rejected)
///   [1] a second exchange becomes possible (the second smallest such gap)
///   [2] two chosen elements change places
/// infinity where that cannot happen.
inline std::array<double, 3> choice_margins(std::vector<double> scores, index_t k) {
  constexpr double never = std::numeric_limits<double>::infinity();
  const auto n = static_cast<index_t>(scores.size());
  const auto near_cut = scores.begin() + std::min(n, k + 2);
  std::partial_sort(scores.begin(), near_cut, scores.end(), std::greater<>());
  const auto at = [&](index_t i) { return scores[usize(i)]; };
  std::array<double, 3> m{never, never, never};
  if (k > 0 && k < n) {
    m[0] = at(k - 1) - at(k);
    if (k + 1 < n) m[1] = at(k - 1) - at(k + 1);
    if (k > 1) m[1] = std::min(m[1], at(k - 2) - at(k));
  }
  for (index_t i = 0; i + 1 < std::min(k, n); ++i) m[2] = std::min(m[2], at(i) - at(i + 1));
  return m;
}

class bundle_sink {
 public:
  static constexpr bool on = true;

  /// `wanted` says which names are recorded (none given: all); what it leaves out is replaced in the
  /// dependencies of others by its own.
  explicit bundle_sink(bundle_writer& to, std::function<bool(const std::string&)> wanted = {})
      : to_(to), wanted_(std::move(wanted)) {}

  void begin_call(call_kind kind, std::vector<call_part> parts) {
    to_.begin_call(kind, std::move(parts));
    seen_.clear();
  }

  void operator()(const tap_event& e) {
    tensor_entry t = entry_of(e, model());
    const bool record = !wanted_ || wanted_(t.name);
    if (e.where == site::gate_biased || e.where == site::indexer_scores) keep_scores(e);
    // A value that did not occur in this call is no dependency; one that was not recorded is replaced by its own.
    std::vector<std::string> deps;
    const auto depend = [&](const std::string& d) {
      if (std::find(deps.begin(), deps.end(), d) == deps.end()) deps.push_back(d);
    };
    for (const std::string& d : t.deps) {
      const auto at = seen_.find({e.sequence, d});
      if (at == seen_.end()) continue;
      if (at->second.recorded)
        depend(d);
      else
        for (const std::string& through : at->second.deps) depend(through);
    }
    t.deps = std::move(deps);
    if (wanted_) std::erase_if(t.state, [&](const std::string& name) { return !wanted_(name); });
    const auto [at, is_new] = seen_.try_emplace({e.sequence, t.name}, occurrence{record, t.deps});
    expects(is_new,
            t.name + " twice in one call: the transformer's tokens_per_pass must not split a recorded call");
    if (!record) return;
    add_margins(e, t);
    to_.add(std::move(t), {static_cast<const std::byte*>(e.data), usize(e.size() * bits_of(e.type) / 8)});
    ++recorded_;
  }

  /// Tensors recorded, margins not counted.
  index_t recorded() const { return recorded_; }

 private:
  struct occurrence {
    bool recorded;
    std::vector<std::string> deps;
  };
  const config& model() { return to_.about().model; }

  void keep_scores(const tap_event& e) {
    std::vector<double>& s = scores_[{e.sequence, e.where}];
    s.resize(usize(e.size()));
    for (index_t i = 0; i < e.size(); ++i) s[usize(i)] = element(e, i);
  }
  /// A choice by scores gets its margins as a tensor of its own, right before it.
  void add_margins(const tap_event& e, tensor_entry& t) {
    const bool gate = e.where == site::gate_indices;
    if (!gate && e.where != site::attn_topk_idxs) return;
    const index_t ratio = ratio_of(e.scope, model());
    const bool by_score =
        gate ? !(e.scope.where == tap_scope::part::layer && model().is_hash_layer(e.scope.number))
             : kind_of_ratio(ratio) == attention_kind::csa;
    if (!by_score) return;
    const auto& scores = scores_[{e.sequence, gate ? site::gate_biased : site::indexer_scores}];
    const index_t width = static_cast<index_t>(scores.size()) / e.tokens;
    const index_t k = gate ? e.shape[1] : std::min(model().index_topk, width);
    std::vector<std::array<double, 3>> rows;
    for (index_t i = 0; i < e.tokens; ++i) {
      const auto row = scores.begin() + i * width;
      const index_t visible = gate ? width : std::min(width, (e.start + i + 1) / ratio);
      rows.push_back(choice_margins({row, row + visible}, std::min(k, visible)));
    }
    tensor_entry m = t;
    m.name += ".margin", m.site += ".margin";
    m.axes = {"token", "gap"};
    m.shape = {e.tokens, 3};
    m.carrier = dtype::f64, m.logical = "f64";
    m.cls = tolerance_class::margin;
    m.state.clear();
    t.margin = m.name;
    to_.add(std::move(m), std::as_bytes(std::span(rows)));
  }

  bundle_writer& to_;
  std::function<bool(const std::string&)> wanted_;
  std::map<std::pair<index_t, std::string>, occurrence> seen_;  // of the current call
  std::map<std::pair<index_t, site>, std::vector<double>> scores_;
  index_t recorded_ = 0;
};

/// Statistics per name over a whole run.
class statistics_sink {
 public:
  static constexpr bool on = true;
  struct record {
    index_t events = 0, elements = 0;
    stats_accumulator values;
  };
  void operator()(const tap_event& e) {
    record& r = names_[e.name()];
    ++r.events;
    r.elements += e.size();
    r.values.add(e.type, {static_cast<const std::byte*>(e.data), usize(e.size() * bits_of(e.type) / 8)});
  }
  const std::map<std::string, record>& names() const { return names_; }

 private:
  std::map<std::string, record> names_;
};

/// Receives a streaming comparison, value by value, in the order of execution.
struct comparison {
  virtual ~comparison() = default;
  /// A value and its golden counterpart, of the same shape.  May replace the value through e.data.
  virtual void compare(const tap_event& e, const tensor_data& golden) = 0;
  /// The golden has this value in another shape.
  virtual void other_shape(const tap_event& e, const tensor_entry& golden) = 0;
  /// The golden has no such value.
  virtual void unknown(const tap_event& e) = 0;
};

/// Finds the golden counterpart of each event; begin_call(step) says which recorded call is being run.
class comparison_sink {
 public:
  static constexpr bool on = true;
  comparison_sink(const bundle& golden, comparison& to) : golden_(golden), to_(to) {}

  void begin_call(index_t step) { step_ = step; }
  void operator()(const tap_event& e) {
    const tensor_entry* t = golden_.find(step_, e.sequence, e.name());
    if (!t) return to_.unknown(e);
    if (static_cast<int>(t->shape.size()) != e.rank ||
        !std::equal(t->shape.begin(), t->shape.end(), e.shape.begin()))
      return to_.other_shape(e, *t);
    to_.compare(e, golden_.read(*t));
  }

 private:
  const bundle& golden_;
  comparison& to_;
  index_t step_ = 0;
};

/// Calls f(event).
template <class F>
struct callback_sink {
  static constexpr bool on = true;
  F f;
  void operator()(const tap_event& e) { f(e); }
};
template <class F>
callback_sink(F) -> callback_sink<F>;

/// Every event to every sink, in order: a later one sees what an earlier one replaced.
template <class... Sinks>
class fan_out {
 public:
  static constexpr bool on = true;
  explicit fan_out(Sinks&... sinks) : sinks_(sinks...) {}
  void operator()(const tap_event& e) {
    std::apply([&](Sinks&... s) { (s(e), ...); }, sinks_);
  }

 private:
  std::tuple<Sinks&...> sinks_;
};

}  // namespace dsv4::golden
