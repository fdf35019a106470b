// SPDX-License-Identifier: MIT
#pragma once
/// Measured noise: how far a correct execution with other reductions is from the golden, operator by
/// operator.  The other execution runs the same calls; each of its values is compared with the recorded
/// one and then REPLACED by it, so that every operator starts from golden inputs and errors do not grow.
/// The runs differ in the order and width of their sums: exec::cpu_fast (float, blocked), and the same on
/// models whose channels are permuted (permute.hpp), which permutes every sum over channels.
#include "calls.hpp"
#include "graft.hpp"
#include "permute.hpp"

namespace dsv4::golden {

/// Compares, remembers the worst run per tensor, and puts the golden value in place.
class noise_meter {
 public:
  static constexpr bool on = true;
  /// `entries`: the bundle's, whose noise is filled in.
  noise_meter(const bundle& golden, std::vector<tensor_entry>& entries)
      : golden_(golden), entries_(entries) {}

  /// `p`: how this run's channels are permuted (none: they are not).
  void begin_run(const channel_permutation* p) { permutation_ = p; }
  void begin_call(index_t step) { step_ = step; }

  void operator()(const tap_event& e) {
    const tensor_entry* t = golden_.find(step_, e.sequence, e.name());
    if (!t) return;
    expects(static_cast<int>(t->shape.size()) == e.rank &&
                std::equal(t->shape.begin(), t->shape.end(), e.shape.begin()),
            "noise: " + t->name + " has another shape in the bundle");
    const tensor_data golden = golden_.read(*t);
    const std::vector<index_t>* order = permutation_ ? permutation_->of(e.where) : nullptr;
    const index_t width = e.shape[usize(e.rank - 1)];
    const bool integer = info(e.where).kind == site_class::integer;
    double difference = 0, size = 0, worst = 0;
    for (index_t i = 0; i < e.size(); ++i) {
      const index_t at = order ? i / width * width + (*order)[usize(i % width)] : i;
      const double a = element(e, i), b = golden[at];
      if (std::isfinite(a) && std::isfinite(b)) {
        difference += (a - b) * (a - b), size += b * b;
        worst = std::max(worst, std::fabs(a - b));
      }
      if (!integer || a != b) assign(e, i, b);
    }
    if (integer) return;  // a choice is judged by its margin, not by noise
    auto& noise = entries_[usize(t - golden_.tensors().data())].noise;
    if (!noise) noise.emplace();
    measured_noise& n = *noise;
    n.relL2 = std::max(n.relL2, size > 0 ? std::sqrt(difference / size) : 0);
    n.max_abs = std::max(n.max_abs, worst);
    ++n.runs;
  }

 private:
  const bundle& golden_;
  std::vector<tensor_entry>& entries_;
  const channel_permutation* permutation_ = nullptr;
  index_t step_ = 0;
};

/// `runs` measurements of a recorded bundle: the first on the weights themselves, the others on permuted
/// copies of them.  Returns the bundle's entries with their noise.  E is the executor with other sums.
template <numerics_policy P, execution E>
std::vector<tensor_entry> measure_noise(const bundle& golden, const model_weights<>& weights, index_t runs,
                                        E e = {}) {
  std::vector<tensor_entry> entries = golden.tensors();
  std::vector<std::vector<std::int32_t>> ids;
  for (index_t s = 0; s < golden.sequences(); ++s) ids.push_back(golden.ids(s));
  noise_meter meter(golden, entries);
  const auto begin = [&](const call_info& call) { meter.begin_call(call.step); };
  for (index_t run = 0; run < runs; ++run) {
    if (run == 0) {
      meter.begin_run(nullptr);
      run_calls<P>(golden.model(), weights, golden.about().calls, ids, meter, begin, e);
    } else {
      const permuted_model other(golden.model(), weights, static_cast<std::uint64_t>(run));
      meter.begin_run(&other.permutation);
      run_calls<P>(golden.model(), other.weights, golden.about().calls, ids, meter, begin, e);
    }
  }
  return entries;
}

}  // namespace dsv4::golden
