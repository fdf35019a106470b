// SPDX-License-Identifier: MIT
#pragma once
/// A verify_result for terminals: at most 25 lines.  report_json.hpp has the twins for programs.

#include "../../core/config_macros.hpp"
#include "../judge/mutate.hpp"
#include "../judge/result.hpp"

namespace dsv4::golden {

/// `all`: also every failing tensor, one line each (then there is no bound on the lines).
std::string report_text(const verify_result& r, bool all = false);

/// The power matrix, one line per variant.
std::string report_text(const power_matrix& p);

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "report_text_impl.hpp"
#endif
