// SPDX-License-Identifier: MIT
#pragma once
/// One step of the optimisers over all parameters: Muon for each logically independent matrix, AdamW for the rest.
/// @paper{DSV4, section 2.4}
/// deviates docs/deviations.md, "Training": no weight decay on vectors unless asked for
///
/// AdamW's bias correction counts the steps of the run, also for the indexer's vectors, which begin to learn later:
/// their first steps are smaller than those of a counter of their own.
///
/// The work is cut into units, a matrix or a stretch of elements, and these into groups of about equal cost, which
/// threads share out.  A unit is one thread's work, so threads change no bit.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../optim/clip.hpp"
#include "../train/product.hpp"
#include "settings.hpp"
#include "training_state.hpp"

namespace dsv4::trainer {

/// Executor E distributes the work over threads; executor O runs Newton-Schulz.
template <class T, execution E, execution O>
class updates {
 public:
  /// `layout` outlives this.
  updates(const placed_layout& layout, const settings& s)
      : layout_(layout), muon_(s.muon), adamw_(s.adamw), decay_vectors_(s.decay_vectors) {
    plan();
  }

  /// Norm of the gradients of the parameters that learn.
  double norm(E& e, view<T, 1> gradients, const std::vector<char>& learn) const {
    std::vector<double> squares(layout_.all.size());
    kernel::rows<E>::run(e, static_cast<index_t>(squares.size()), 1, [&](index_t from, index_t to) {
      for (index_t i = from; i < to; ++i) {
        const parameter_info& p = layout_.all[usize(i)].info;
        if (learn[usize(i)])
          squares[usize(i)] = squared_norm(view<T, 1>(gradients.data() + p.offset, p.size()));
      }
    });
    return global_norm(squares);
  }

  /// Step `step`, from 1, at this learning rate; gradients are multiplied by `factor` first.
  void run(E& e, O& o, training_state<T>& s, view<T, 1> gradients, const std::vector<char>& learn,
           index_t step, double rate, double factor) const {
    kernel::rows<E>::run(e, static_cast<index_t>(groups_.size()), 1, [&](index_t from, index_t to) {
      for (index_t i = from; i < to; ++i)
        for (const unit& u : groups_[usize(i)])
          if (learn[u.parameter]) update(o, u, s, gradients, step, rate, factor);
    });
  }

 private:
  /// A matrix for Muon, or a stretch of elements for AdamW.
  struct unit {
    std::size_t parameter;
    index_t from, size;  // elements, counted from the parameter's first
    index_t rows;        // of the matrix; 0: a stretch for AdamW
    double cost;
  };

  void plan() {
    constexpr index_t stretch = index_t{1} << 15;
    constexpr double adamw_cost = 30, newton_schulz_steps = 10;
    std::vector<unit> units;
    for (std::size_t i = 0; i < layout_.all.size(); ++i) {
      const placed_parameter& p = layout_.all[i];
      const index_t n = p.info.size();
      if (!p.muon) {
        for (index_t at = 0; at < n; at += stretch) {
          const index_t some = std::min(stretch, n - at);
          units.push_back({i, at, some, 0, adamw_cost * double(some)});
        }
        continue;
      }
      const index_t cols = p.info.shape[1];
      index_t at = 0;
      for (const index_t rows : p.info.matrices) {
        const auto s = double(std::min(rows, cols)), l = double(std::max(rows, cols));
        units.push_back(
            {i, at, rows * cols, rows, newton_schulz_steps * s * s * (s + 1.5 * l) + adamw_cost * s * l});
        at += rows * cols;
      }
    }
    // The most expensive units first, each to the group that has least to do so far.
    std::stable_sort(units.begin(), units.end(),
                     [](const unit& a, const unit& b) { return a.cost > b.cost; });
    constexpr std::size_t groups = 64;
    groups_.assign(std::min(groups, units.size()), {});
    std::vector<double> cost(groups_.size());
    for (const unit& u : units) {
      const auto least = usize(std::min_element(cost.begin(), cost.end()) - cost.begin());
      groups_[least].push_back(u);
      cost[least] += u.cost;
    }
  }

  void update(O& o, const unit& u, training_state<T>& s, view<T, 1> gradients, index_t step, double rate,
              double factor) const {
    const placed_parameter& p = layout_.all[u.parameter];
    const index_t at = p.info.offset + u.from;
    T *const w = s.w.data() + at, *const m = s.m.data() + at, *const g = gradients.data() + at;
    scale_gradients(view<T, 1>(g, u.size), factor);
    if (u.rows > 0) {
      const index_t cols = p.info.shape[1];
      muon_step(o, train::thread_scratch(), view<const T, 2>(g, u.rows, cols), view<T, 2>(m, u.rows, cols),
                view<T, 2>(w, u.rows, cols), rate, muon_);
      return;
    }
    adamw_options options = adamw_;
    const bool is_matrix = p.info.shape.size() == 2 && !p.info.name.ends_with(".ape");
    if (!is_matrix && !decay_vectors_) options.decay = 0;
    T* const v = s.v.data() + p.second + u.from;
    adamw_step(view<const T, 1>(g, u.size), view<T, 1>(m, u.size), view<T, 1>(v, u.size),
               view<T, 1>(w, u.size), step, rate, options);
  }

  const placed_layout& layout_;
  muon_options muon_;
  adamw_options adamw_;
  bool decay_vectors_;
  std::vector<std::vector<unit>> groups_;
};

}  // namespace dsv4::trainer
