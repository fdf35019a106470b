// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of mutate.hpp.
#include <algorithm>

#include "../../io/folders.hpp"
#include "../make/record.hpp"
#include "../mistake/mistaken.hpp"
#include "forced.hpp"
#include "mutate.hpp"
#include "verify.hpp"

namespace dsv4::golden {

namespace detail {

/// Plants a mutation in the run it observes.  Sinks after it see the mutated values.
template <numerics_policy P>
class mutator {
 public:
  static constexpr bool on = true;
  mutator(const config& c, const model_weights<>& w, const std::vector<std::vector<std::int32_t>>& ids,
          const mutation& what)
      : c_(c), what_(what), memory_(c), wrong_(c, w, memory_, ids) {}

  void operator()(const tap_event& e) {
    const bool here = std::find(what_.at.begin(), what_.at.end(), e.where) != what_.at.end() &&
                      applies(what_.where, e.scope, c_) && (!what_.decode_only || e.start > 0);
    if (here)
      if (const maybe_values v = wrong_(what_.what, e); v && static_cast<index_t>(v->size()) == e.size()) {
        bool moved = false;
        for (index_t i = 0; i < e.size(); ++i) {
          const double before = element(e, i);
          assign(e, i, (*v)[usize(i)]);
          moved = moved || element(e, i) != before;
        }
        if (moved && first_.empty()) first_ = e.name();
        if (moved) changed_.insert(e.name());
      }
    memory_.remember(e);
  }
  /// The first value that the mutation changed; empty: it changed nothing.
  const std::string& first() const { return first_; }
  /// Every value that it changed: a culprit among these is rightly named (the first may be within tolerance).
  bool changed(const std::string& name) const { return changed_.contains(name); }

 private:
  const config& c_;
  const mutation& what_;
  operator_memory memory_;
  mistaken<P> wrong_;
  std::string first_;
  std::set<std::string> changed_;
};

template <numerics_policy P>
mutation_outcome mutate_once(const bundle& golden, const model_weights<>& weights, const mutation& m,
                             const std::filesystem::path& parent) {
  const io::scratch_folder scratch("dsv4-mutation", parent);
  const std::filesystem::path dir = scratch.path() / "mutated.v4gold";
  mutation_outcome o;
  o.bug = m.bug;
  o.name = m.other_ids ? "other_token_ids" : std::string(info(m.what).name);
  o.says = m.other_ids ? "the ids of another template" : std::string(info(m.what).says);
  auto ids = all_ids(golden);
  if (m.other_ids) {
    const std::size_t at = ids[0].size() / 2;
    ids[0][at] = static_cast<std::int32_t>((ids[0][at] + 1) % golden.model().vocab_size);
    o.expected = "input_ids.0";
  }
  mutator<P> bug(golden.model(), weights, ids, m);
  {
    manifest about = golden.about();
    about.name += "-" + o.name;
    bundle_writer writer(dir, about);
    writer.ids(ids);
    // Only what the golden has: the verdict is on this bundle.
    std::set<std::string> names;
    for (const tensor_entry& t : golden.tensors()) names.insert(t.name);
    bundle_sink sink(writer, [&](const std::string& n) { return names.contains(n); });
    fan_out all(bug, sink);
    run_calls<P>(
        golden.model(), weights, golden.about().calls, ids, all,
        [&](const call_info& call) { sink.begin_call(call.kind, call.parts); }, exec::ref{});
    writer.finish();
  }
  o.exercised = m.other_ids || !bug.first().empty();
  if (!m.other_ids) o.expected = bug.first();
  if (o.exercised) {
    const bundle test = bundle::open(dir);
    const auto judge = [&](mutation_verdict& v, verify_mode mode, tolerance_policy policy, bool hints) {
      verify_options options;
      options.mode = mode, options.policy = policy, options.weights = &weights, options.hints = hints;
      const verify_result r = verify(golden, test, options);
      v.exit_code = r.exit_code;
      v.caught = r.exit_code != verify_exit::ok;
      v.culprit = r.culprit.found                                             ? r.tensors[r.culprit.at].name
                  : m.other_ids && r.exit_code == verify_exit::not_comparable ? o.expected
                                                                              : "";
      v.named = m.other_ids ? v.culprit == o.expected : bug.changed(v.culprit);
      if (!hints || r.culprit.hints.empty() || !r.culprit.hints[0].explains) return;
      o.hint = r.culprit.hints[0].mistake;
      for (const hint_result& h : r.culprit.hints)
        o.hint_right = o.hint_right || (h.explains && h.mistake == o.name);
      if (o.hint_right) o.hint = o.name;
    };
    judge(o.forced, verify_mode::forced, tolerance_policy::faithful, true);
    judge(o.free, verify_mode::free_running,
          P::quantised ? tolerance_policy::strict : tolerance_policy::faithful, false);
  }
  return o;
}

}  // namespace detail

DSV4_INLINE power_matrix mutate(std::span<const mutation_subject> subjects, const mutate_options& options) {
  power_matrix matrix;
  for (const mutation& m : all_mutations()) {
    if (!options.bugs.empty() &&
        std::find(options.bugs.begin(), options.bugs.end(), m.bug) == options.bugs.end())
      continue;
    mutation_outcome best;
    for (const mutation_subject& s : subjects) {
      mutation_outcome o = s.golden->about().policy() != "float32"
                               ? detail::mutate_once<official>(*s.golden, *s.weights, m, options.scratch)
                               : detail::mutate_once<float32<>>(*s.golden, *s.weights, m, options.scratch);
      o.bundle = s.golden->about().name;
      // A golden that does not reach the code says nothing; one that does and misses is told, unless another catches.
      if (best.bug == 0 || o.right() || (o.exercised && !best.exercised)) best = std::move(o);
      if (best.right()) break;
    }
    matrix.rows.push_back(std::move(best));
    if (options.progress) options.progress(matrix.rows.back());
  }
  return matrix;
}

DSV4_INLINE power_matrix mutate(const bundle& golden, const model_weights<>& weights,
                                const mutate_options& options) {
  const mutation_subject one{&golden, &weights};
  return mutate(std::span(&one, 1), options);
}

}  // namespace dsv4::golden
