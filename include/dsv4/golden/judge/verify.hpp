// SPDX-License-Identifier: MIT
#pragma once
/// `dsv4 verify GOLDEN TEST`: is the test a right run of the golden's model, and if not, which tensor is wrong
/// first, how, and why.
///
///   const auto golden = golden::bundle::open("mini.v4gold"), test = golden::bundle::open("mine.v4gold");
///   golden::verify_options o;
///   o.weights = &checkpoint.weights();                      // forced mode recomputes with these
///   const golden::verify_result r = golden::verify(golden, test, o);
///   puts(golden::report_text(r).c_str());                   // report_text.hpp
///
/// Structure first (configuration, numerics, ids, positions); then values, in the order of execution, in
/// forced mode (forced.hpp: official numerics) or free mode (free.hpp: strict, or float32); then the culprit's
/// patterns and hints.  Reads a few tensors at a time, checks their hashes, and holds the rows that it looks at.
#include "../../core/config_macros.hpp"
#include "../bundle/bundle.hpp"
#include "options.hpp"

namespace dsv4::golden {

/// Exit codes; docs/verification.md says which comes first.
namespace verify_exit {
inline constexpr int ok = 0, numeric = 1, structure = 2, choice = 3, not_comparable = 4, anomaly = 5,
                     warnings = 6;
}

/// @throws contract_violation forced mode without weights, or on a regular expression that is none
/// @throws format_error, missing_input, damaged a bundle turns out to be broken while it is read
verify_result verify(const bundle& golden, const bundle& test, const verify_options& options = {});

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "verify_impl.hpp"
#endif
