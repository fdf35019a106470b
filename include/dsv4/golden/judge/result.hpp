// SPDX-License-Identifier: MIT
#pragma once
/// What `verify` (verify.hpp) found, as data; the reports (text, JSON, JUnit, HTML) are functions of it.
///
/// One entry per compared recording, in the order of the golden's execution; one culprit; and, where the
/// bundles have them, routing margins and logits position by position.  Everything is a double in a fixed
/// order of summation: the same two bundles give the same result, bit for bit.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "../bundle/site_table.hpp"

namespace dsv4::golden {

/// How values are compared: the test's against the golden's, or each of the test's against what its own
/// inputs give.
enum class verify_mode : std::uint8_t { free_running, forced };
constexpr std::string_view name_of(verify_mode m) { return m == verify_mode::forced ? "forced" : "free"; }

/// How much may differ (tolerance.hpp).
enum class tolerance_policy : std::uint8_t { strict, faithful, quant };
inline constexpr std::string_view tolerance_policy_names[] = {"strict", "faithful", "quant"};
constexpr std::string_view name_of(tolerance_policy p) { return tolerance_policy_names[usize(p)]; }

enum class verdict : std::uint8_t {
  pass,
  warn,  ///< within tolerance, but more than 4 times the measured noise
  fail,
  tainted,     ///< every row follows a choice that legally differs: nothing to judge (free mode)
  not_judged,  ///< no inputs in the test to recompute it from, or informative only
  missing,     ///< the golden has it, the test does not
  count
};
inline constexpr std::string_view verdict_names[] = {"pass",    "warn",       "fail",
                                                     "tainted", "not_judged", "missing"};
constexpr std::string_view name_of(verdict v) { return verdict_names[usize(v)]; }

/// a is the test's value, b what it should be.  All metrics are over finite elements of rows that are not tainted.
struct error_metrics {
  index_t values = 0, rows = 0, masked_rows = 0;
  index_t different = 0;  ///< elements that are not equal (in bits for stored values: -0 is not 0)
  index_t beyond = 0;     ///< elements outside the element tolerance of the class
  double max_abs = 0, mean_abs = 0;
  std::vector<index_t> worst;  ///< coordinate of max_abs: position (or entry), then the other axes
  double worst_test = 0, worst_expected = 0;
  double rel_l2 = 0;     ///< ||a-b|| / ||b||
  double calc_diff = 0;  ///< 1 - 2ab / (aa+bb)
  double one_minus_cos = 0;
  double nmse_energy = 0, nmse_variance = 0;
  double norm_ratio = 1;                         ///< ||a|| / ||b||
  double ulp_p50 = 0, ulp_p99 = 0, ulp_max = 0;  ///< scaled ulps of the stored type
  double bias = 0;        ///< (elements too large in magnitude - too small) / different, -1 … 1
  double bias_sigma = 0;  ///< the same in standard deviations of a fair coin
  index_t nan_test = 0, inf_test = 0, nan_expected = 0, inf_expected = 0, masks_differ = 0;
  // Choices only: rows of indices.
  index_t rows_differ = 0, rows_legal = 0, rows_order_only = 0;
  double jaccard = 1, recall = 1;  ///< mean over rows

  double mismatch() const { return values ? double(different) / double(values) : 0; }
  double pass_rate() const { return values ? 1 - double(beyond) / double(values) : 1; }
};

/// Sum of squared error by coordinate of one axis (positions for the first), as shares that add up to 1.
struct error_by_axis {
  std::string axis;
  index_t first = 0;  ///< coordinate of share[0] (a position, for the first axis)
  std::vector<double> share;
};

struct tensor_result {
  std::string name;                                  ///< layers.3.attn.q_rope
  std::string scope, site;                           ///< layers.3, attn.q_rope
  index_t layer = -1;                                ///< -1: head
  index_t step = 0, sequence = 0, from = 0, to = 0;  ///< call and positions
  tolerance_class cls = tolerance_class::stored;
  verdict v = verdict::pass;
  bool from_ancestors = false;  ///< forced: a direct input was not recorded and was recomputed
  std::string why;              ///< of fail and not_judged: which bound, found and allowed
  double noise = 0;             ///< measured relL2 of the golden, 0: not measured
  double severity = 0;          ///< error / allowed of the bound that is nearest to, or farthest beyond, 1
  error_metrics m;
};

/// Something that is wrong before any number is compared.
struct structural_problem {
  int exit_code = 2;  ///< 2 structure, 4 not comparable
  std::string what;
};

/// A known mistake, tried at the culprit.
struct hint_result {
  std::string mistake;  ///< "rope_half_split"
  std::string says;     ///< one sentence for people
  double rel_l2 = 0;    ///< the test against the mistaken recomputation
  double mismatch = 0;
  bool explains = false;  ///< reproduces the test as well as a right operator would
};

/// The error of the tokens that use one expert.  A token uses several, so shares add up to more than 1.
struct error_by_expert {
  index_t expert = 0, rows = 0, wrong_rows = 0;
  double share = 0;  ///< of the squared relative errors of all rows
};

struct position_error {
  index_t sequence = 0, position = 0;
  double rel_l2 = 0, max_abs = 0;
};

/// The first failing tensor all of whose dependencies pass.
struct culprit_report {
  bool found = false;
  std::size_t at = 0;  ///< in verify_result::tensors
  index_t first_bad_position = -1, sequence = 0;
  std::vector<std::string> axes;
  std::vector<error_by_axis> by_axis;  ///< over all calls of this site
  std::vector<position_error> by_position;
  std::vector<error_by_expert> by_expert;  ///< of what experts sum up to; empty elsewhere
  index_t guilty_expert = -1;              ///< the one whose tokens alone are wrong
  std::vector<std::string> patterns;       ///< "all errors in channels 64-127", "only at pos % 4 == 3"
  std::vector<std::string> passing_deps, missing_deps;
  std::vector<hint_result> hints;           ///< best first
  std::array<index_t, 32> ulp_histogram{};  ///< bin 0: equal, bin i: scaled ulps in [2^(i-4), 2^(i-3))
};

/// One token's choice, for the picture of margins against errors.
struct routing_point {
  std::string name;
  index_t sequence = 0, position = 0;
  double margin = 0;       ///< golden: last chosen minus first rejected
  double score_error = 0;  ///< largest |difference| of this token's scores
  bool flipped = false, legal = false;
};

/// One row of logits, test against golden (also in forced mode, where it is information only).
struct logits_point {
  std::string name;
  index_t sequence = 0, position = 0;
  double kl = 0, reverse_kl = 0, js = 0;
  bool top1_equal = true;
  double golden_margin = 0;  ///< best minus second best logit
  double delta_nll = 0;      ///< test minus golden, of the next token of the input; 0 at the end
  double delta_p = 0;        ///< of that token's probability
};
struct logits_summary {
  index_t rows = 0;
  double kl_mean = 0, kl_p999 = 0, kl_max = 0, reverse_kl_mean = 0, js_mean = 0;
  double top1 = 1, top1_sure = 1;  ///< agreement; the same where the golden's margin exceeds 0.1
  double delta_nll_mean = 0, delta_p_rms = 0, nmse = 0;
  index_t kl_max_position = -1;
};

struct verify_result {
  int exit_code = 0;
  std::string golden, test;  ///< paths
  std::string numerics;      ///< official, float32
  verify_mode mode = verify_mode::forced;
  tolerance_policy policy = tolerance_policy::faithful;
  double k_noise = 8;
  std::string statement;  ///< which mode, and what it can and cannot show: one sentence
  std::string summary;    ///< the outcome in one sentence
  std::vector<structural_problem> structure;
  std::vector<std::string> notes;
  std::vector<tensor_result> tensors;
  std::array<index_t, usize(verdict::count)> counts{};
  index_t skipped = 0;  ///< by --only, --layers, --pos, --allow-skip
  index_t extra = 0;    ///< in the test, not in the golden
  culprit_report culprit;
  std::vector<routing_point> routing;  ///< at most 100000, flips first
  std::vector<logits_point> logits;
  logits_summary logits_total;
  double seconds = 0;
  std::size_t bytes = 0;  ///< of compared values

  index_t count(verdict v) const { return counts[usize(v)]; }
};

}  // namespace dsv4::golden
