// SPDX-License-Identifier: MIT
#pragma once
/// Grafts: observers that put recorded values in the place of a run's own, so that what follows starts
/// from them.
///
///   forced_routing    ffn.gate.indices    the experts of the golden, weights by the run's own scores
///   forced_top_k      attn.topk_idxs      the compressed entries of the golden
///   teacher_forcing   every site          each operator starts from golden inputs
#include "../bundle/sinks.hpp"

namespace dsv4::golden {

/// Sets element i of an event to x, rounded once to the type that the event stores (exact if the golden has that type).
inline void assign(const tap_event& e, index_t i, double x) {
  const auto at = usize(i);
  switch (e.type) {
    case dtype::bf16: e.values<bf16>()[at] = round_bf16(x); break;
    case dtype::f32: e.values<float>()[at] = static_cast<float>(x); break;
    case dtype::f64: e.values<double>()[at] = x; break;
    default: e.values<std::int32_t>()[at] = static_cast<std::int32_t>(x);
  }
}
inline void replace(const tap_event& e, const tensor_data& golden) {
  if (e.type == golden.entry().carrier) {
    std::memcpy(e.data, golden.bytes().data(), golden.bytes().size());
    return;
  }
  for (index_t i = 0; i < e.size(); ++i) assign(e, i, golden[i]);
}

/// Replaces the values of the sites that `wanted` names by those of a bundle.
/// @throws contract_violation where the bundle's value has another shape: another run
class graft {
 public:
  static constexpr bool on = true;
  graft(const bundle& golden, std::function<bool(const tap_event&)> wanted)
      : golden_(golden), wanted_(std::move(wanted)) {}

  void begin_call(index_t step) { step_ = step; }
  void operator()(const tap_event& e) {
    if (!wanted_(e)) return;
    const tensor_entry* t = golden_.find(step_, e.sequence, e.name());
    if (!t) return;
    expects(static_cast<int>(t->shape.size()) == e.rank &&
                std::equal(t->shape.begin(), t->shape.end(), e.shape.begin()),
            "graft: " + t->name + " has another shape in the bundle");
    replace(e, golden_.read(*t));
    ++replaced_;
  }
  /// Values replaced so far: 0 at the end means that nothing was forced.
  index_t replaced() const { return replaced_; }

 private:
  const bundle& golden_;
  std::function<bool(const tap_event&)> wanted_;
  index_t step_ = 0, replaced_ = 0;
};

inline graft forced_routing(const bundle& golden) {
  return {golden, [](const tap_event& e) { return e.where == site::gate_indices; }};
}
inline graft forced_top_k(const bundle& golden) {
  return {golden, [](const tap_event& e) { return e.where == site::attn_topk_idxs; }};
}
inline graft teacher_forcing(const bundle& golden) {
  return {golden, [](const tap_event&) { return true; }};
}

}  // namespace dsv4::golden
