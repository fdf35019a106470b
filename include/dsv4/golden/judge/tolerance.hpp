// SPDX-License-Identifier: MIT
#pragma once
/// How much a tensor may differ, by class and policy, and the judgement.  docs/verification.md says why.
///
///   strict     the same numerics: stored values bit for bit; wide values 1e-12 of the largest (doubles), or
///              2 ulps of the coarser type
///   faithful   the same quantisation, other orders of summation, operator by operator
///   quant      other weights' quantisation, a real engine
/// Under float32 numerics every class but choices is faithful within a relative norm of 2e-5 (the oracle and
/// this library differ by less than 1e-5).
/// With measured noise an error up to k times the noise passes under faithful and quant.  Every bound is a
/// named number, and the report says which one was broken, by how much.
#include "../../core/format_text.hpp"
#include "../bundle/bundle.hpp"
#include "metrics.hpp"

namespace dsv4::golden {

struct tolerance_context {
  tolerance_policy policy = tolerance_policy::faithful;
  verify_mode mode = verify_mode::forced;
  bool official = true;  ///< numerics: official or float32
  double k_noise = 8;
  index_t summands = 1;         ///< K, the length of the reduction
  dtype carrier = dtype::bf16;  ///< the coarser of the two types compared
  index_t layer = 0;
};

/// The tolerance of single elements of a class.  It is needed while elements are read, the others only at the end.
inline element_tolerance element_tolerance_of(tolerance_class cls, const tolerance_context& c) {
  if (c.policy == tolerance_policy::faithful && c.official) {
    if (cls == tolerance_class::attention) return {1e-3, 2.0 / 128, false};
    if (cls == tolerance_class::f32_elementwise) return {2e-5, 1e-5, true};
    if (cls == tolerance_class::code) return {0, 0.5, true};  // one code step, e2m1's widest
  }
  if (c.policy == tolerance_policy::quant) return {1e-2, 1e-2, true};
  if (c.policy == tolerance_policy::faithful) return {1e-4, 1e-4, true};
  return {};
}

namespace detail {

/// Keeps the bound whose value is largest relative to its limit: the one that fails worst, or passes most narrowly.
class judgement {
 public:
  void bound(const char* what, double found, double allowed) {
    const double s = found <= allowed ? (allowed > 0 ? found / allowed : 0)
                     : allowed > 0    ? found / allowed
                                      : std::numeric_limits<double>::infinity();
    if (!(s <= severity)) {
      severity = s;
      why = format_text("%s %.3g, allowed %.3g", what, found, allowed);
    }
  }
  bool ok() const { return severity <= 1; }
  double severity = 0;
  std::string why;
};

/// The allowed share of elements.  In a small tensor a share is less than one element, so a few are always allowed.
inline double share(double of, index_t values, double at_least) {
  return std::max(of, at_least / double(std::max<index_t>(1, values)));
}

}  // namespace detail

/// Fills verdict, why and severity of a comparison of values (not of choices).  `largest`: the largest expected value.
inline void judge_values(tensor_result& r, const tolerance_context& c, double largest,
                         const logits_summary* logits) {
  using cls = tolerance_class;
  const error_metrics& m = r.m;
  detail::judgement j;
  if (m.masks_differ)
    j.bound("elements whose NaN or infinity is not the expected one:", double(m.masks_differ), 0);
  const bool wide = c.carrier == dtype::f32 || c.carrier == dtype::f64;
  const double type_ulp = std::ldexp(1.0, 1 - mantissa_bits(c.carrier));
  if (c.policy == tolerance_policy::strict) {
    const bool stored_wide =
        wide && (c.official || r.cls == cls::f32_elementwise || r.cls == cls::f32_reduction ||
                 r.cls == cls::logits || r.site == "ffn.routed");
    if (stored_wide) {
      constexpr double of_doubles = 1e-12;
      const double relative = c.carrier == dtype::f64 ? of_doubles : 2 * type_ulp;
      j.bound("largest difference", m.max_abs, relative * largest);
    } else {
      j.bound("different elements", double(m.different), 0);
    }
  } else if (!c.official) {
    const bool quant = c.policy == tolerance_policy::quant;
    j.bound("relative norm of the error", m.rel_l2, quant ? 1e-2 : 2e-5);
    if (r.cls == cls::logits && logits) {
      j.bound("mean KL", logits->kl_mean, quant ? 5e-2 : 1e-6);
      j.bound("1 - top-1 agreement where the golden is sure", 1 - logits->top1_sure, quant ? 0.05 : 0);
    }
  } else if (c.policy == tolerance_policy::faithful) {
    switch (r.cls) {
      case cls::code:
        j.bound("share of other codes", m.mismatch(), detail::share(0.005, m.values, 2));
        j.bound("elements more than one code off", double(m.beyond), 0);
        break;
      case cls::f32_elementwise:
        j.bound("elements beyond 1e-5 relative + 2e-5 rms", double(m.beyond), 0);
        j.bound("calc_diff", m.calc_diff, 1e-10);
        break;
      case cls::f32_reduction:
        j.bound("relative norm of the error", m.rel_l2,
                8 * std::ldexp(1.0, -24) * std::sqrt(double(c.summands)));
        j.bound("calc_diff", m.calc_diff, 1e-8);
        break;
      case cls::stored:
      case cls::gemm_bf16:
        j.bound("share of other elements", m.mismatch(), detail::share(0.02, m.values, 4));
        j.bound("scaled ulps", m.ulp_max, 4);
        j.bound("calc_diff", m.calc_diff, 1e-5);
        break;
      case cls::hidden:
        if (c.mode == verify_mode::forced) {
          j.bound("share of other elements", m.mismatch(), detail::share(0.02, m.values, 4));
          j.bound("scaled ulps", m.ulp_max, 4);
        }
        j.bound("calc_diff", m.calc_diff, c.mode == verify_mode::forced ? 1e-5 : 1e-5 * double(c.layer + 1));
        break;
      case cls::attention:
        j.bound("elements beyond 1e-3 rms and 2/128 relative", double(m.beyond), 0);
        j.bound("1 - cos", m.one_minus_cos, 5e-6);
        break;
      case cls::gemm_fp8:
      case cls::gemm_fp4: j.bound("calc_diff", m.calc_diff, 2e-5); break;
      case cls::logits:
        j.bound("NMSE", m.nmse_energy, 1e-4);
        if (logits) {
          j.bound("mean KL", logits->kl_mean, 1e-3);
          j.bound("largest KL", logits->kl_max, 2e-2);
          j.bound("1 - top-1 agreement", 1 - logits->top1, 0.01);
        }
        break;
      default: break;
    }
  } else {
    switch (r.cls) {
      case cls::f32_elementwise: j.bound("elements beyond 1e-2", double(m.beyond), 0); break;
      case cls::f32_reduction: j.bound("relative norm of the error", m.rel_l2, 1e-2); break;
      case cls::gemm_fp4: j.bound("calc_diff", m.calc_diff, 1e-2); break;
      case cls::logits:
        j.bound("NMSE", m.nmse_energy, 1e-2);
        if (logits) {
          j.bound("mean KL", logits->kl_mean, 5e-2);
          j.bound("99.9 % of KL", logits->kl_p999, 1);
          j.bound("1 - top-1 agreement", 1 - logits->top1, 0.05);
        }
        break;
      default: j.bound("calc_diff", m.calc_diff, 1e-3);
    }
  }
  bool ok = j.ok();
  r.severity = j.severity, r.why = j.why;
  const bool noisy = r.noise > 0 && c.policy != tolerance_policy::strict;
  if (!ok && noisy && !m.masks_differ && m.rel_l2 <= c.k_noise * r.noise) {
    ok = true;
    r.severity = m.rel_l2 / (c.k_noise * r.noise);
  }
  constexpr double warn_above = 4;
  const bool warn = ok && noisy && m.rel_l2 > warn_above * r.noise;
  r.v = !ok ? verdict::fail : warn ? verdict::warn : verdict::pass;
  if (warn) {
    r.why = format_text("within tolerance, but %.1f times the measured noise", m.rel_l2 / r.noise);
  } else if (ok) {
    r.why.clear();
  }
}

/// The same for choices: what decides is how many rows differ that the scores do not excuse.
inline void judge_choices(tensor_result& r, const tolerance_context& c) {
  const index_t illegal = r.m.rows_differ - r.m.rows_legal;
  std::string text;
  bool ok = illegal <= 0;
  if (c.policy == tolerance_policy::quant) {
    constexpr double recall = 0.90;
    ok = r.m.recall >= recall;
    r.severity = (1 - r.m.recall) / (1 - recall);
    if (!ok) text = format_text("recall %.3f, allowed %.2f", r.m.recall, recall);
  } else {
    r.severity = ok ? 0 : std::numeric_limits<double>::infinity();
    if (!ok)
      text = std::to_string(illegal) + " of " + std::to_string(r.m.rows) +
             " rows choose differently, beyond the margin of their scores";
  }
  r.why = text;
  r.v = ok ? verdict::pass : verdict::fail;
}

/// How many terms the sum behind a site has, for bounds that grow with it.
inline index_t summands_of(site s, const config& c) {
  switch (s) {
    case site::hc_attn_mixes:
    case site::hc_ffn_mixes:
    case site::hc_head_pre: return c.hc_mult * c.hidden_size;
    case site::gate_scores: return c.hidden_size;
    default: return 1;
  }
}

}  // namespace dsv4::golden
