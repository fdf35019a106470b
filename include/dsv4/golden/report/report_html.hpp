// SPDX-License-Identifier: MIT
#pragma once
/// A verification as one page: a single file with its style and its charts (inline SVG), without scripts,
/// that can be mailed, archived and opened anywhere.
///   verdict and what the mode can show · the culprit: values, axes, positions, known mistakes ·
///   layer-by-site map of log10(error / allowed) · routing: margins against score errors · KL by position ·
///   tables: worst first, and in the order of execution
/// The page forbids itself scripts and connections (Content-Security-Policy), and all texts are escaped.
/// The same result gives the same bytes.
#include "../../core/config_macros.hpp"
#include "../judge/result.hpp"

namespace dsv4::golden {

/// The whole page.
std::string html_report(const verify_result& r);

}  // namespace dsv4::golden

#if !defined(DSV4_COMPILED)
#include "report_html_impl.hpp"
#endif
