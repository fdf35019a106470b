// SPDX-License-Identifier: MIT
#pragma once
/// A verification as Markdown for a bug tracker: what a maintainer needs who has neither of the two runs.
/// Versions, how it was judged, the first wrong tensor with its worst coordinate and pattern, the suspected cause, and
/// the smallest input that shows it: the model is causal, so that tokens behind the first wrong row and layers above
/// the culprit's cannot matter.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "../bundle/bundle.hpp"
#include "../judge/result.hpp"

namespace dsv4::golden {

/// The part of a run that shows its culprit: tokens [0, tokens) of its sequence, layers [0, layers).
struct smallest_input {
  index_t sequence = 0, tokens = 0, layers = 0;
  std::vector<std::int32_t> ids;
  bool confirmed = false;  ///< verified again on these alone: the same tensor is wrong first
};

/// Nothing for a run without a culprit.  `again(layers, tokens)` verifies that part once more.
std::optional<smallest_input> shrink(const verify_result& r, const bundle& golden,
                                     const std::function<verify_result(index_t, index_t)>& again);

/// `engine`: what the test is a dump of, in words; may be empty.  `version`: of the program that asks.
std::string report_issue(const verify_result& r, const bundle& golden, const std::string& engine,
                         const std::string& version, const std::optional<smallest_input>& smallest);

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "report_issue_impl.hpp"
#endif
