// SPDX-License-Identifier: MIT
#pragma once
/// `dsv4 verify --mutate GOLDEN...`: plants every bug of the catalogue (mutation_list.hpp) in our own model, dumps
/// the run, verifies the dump, and says whether the bundle and the verifier catch the bug and name it.
/// A bug that no bundle of a set can catch is a defect of the set.
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "../../core/config_macros.hpp"
#include "../../model/weights.hpp"
#include "../bundle/bundle.hpp"
#include "../mistake/mutation_list.hpp"

namespace dsv4::golden {

/// What a verification made of a mutation.
struct mutation_verdict {
  bool caught = false, named = false;
  int exit_code = 0;
  std::string culprit;
};
struct mutation_outcome {
  int bug = 0;
  std::string name, says;  ///< of the mistake
  bool exercised = false;  ///< it changed a value: the bundle reaches the code
  std::string expected;    ///< the first value it changed
  mutation_verdict forced, free;
  std::string hint;  ///< the hint that explains best
  bool hint_right = false;
  std::string bundle;  ///< whose verdict this is
  bool right() const { return exercised && forced.caught && forced.named; }
};
struct power_matrix {
  std::vector<mutation_outcome> rows;
  /// Bugs that were planted without a variant that is caught and named (of 1 … 19).
  std::vector<int> escaped() const {
    std::vector<int> out;
    for (int bug = 1; bug <= static_cast<int>(bug_names.size()); ++bug) {
      bool planted = false, ok = false;
      for (const mutation_outcome& o : rows)
        if (o.bug == bug) planted = true, ok = ok || o.right();
      if (planted && !ok) out.push_back(bug);
    }
    return out;
  }
  /// Variants that changed a value and were not caught, or blamed on another tensor.
  std::vector<const mutation_outcome*> missed() const {
    std::vector<const mutation_outcome*> out;
    for (const mutation_outcome& o : rows)
      if (o.exercised && !o.right()) out.push_back(&o);
    return out;
  }
  int exit_code() const { return escaped().empty() && missed().empty() ? 0 : 1; }
};

struct mutate_options {
  std::filesystem::path
      scratch;            ///< a directory for dumps, each removed again; empty: the system's for such files
  std::vector<int> bugs;  ///< only these; empty: all
  std::function<void(const mutation_outcome&)> progress;
};

/// A golden, and the weights that it is a run of by this library's bits.
struct mutation_subject {
  const bundle* golden;
  const model_weights<>* weights;
};

/// Runs each mutation on the goldens' own calls, one golden after the other until one of them catches and names it.
power_matrix mutate(std::span<const mutation_subject> subjects, const mutate_options& options);
power_matrix mutate(const bundle& golden, const model_weights<>& weights, const mutate_options& options);

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "mutate_impl.hpp"
#endif
