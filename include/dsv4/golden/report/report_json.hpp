// SPDX-License-Identifier: MIT
#pragma once
/// A verify_result for programs: JSON (one object, everything), and JUnit (one test case per tensor class).

#include "../../core/config_macros.hpp"
#include "../judge/mutate.hpp"
#include "../judge/result.hpp"

namespace dsv4::golden {

nlohmann::ordered_json report_json(const verify_result& r, bool all_positions = true);

nlohmann::ordered_json report_json(const power_matrix& p);

/// JUnit XML: one test case per tolerance class, one for the structure.
std::string report_junit(const verify_result& r);

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "report_json_impl.hpp"
#endif
