// SPDX-License-Identifier: MIT
#pragma once
/// A result with something in every field, for tests of the reports (and to look at them).
#include <cmath>

#include "dsv4/golden/judge/result.hpp"

namespace dsv4_test {

/// Six layers, a fault in the rotation of layer 2's queries that grows with the position.
inline dsv4::golden::verify_result synthetic_result(dsv4::index_t layers = 6, dsv4::index_t positions = 180) {
  using namespace dsv4;
  using namespace dsv4::golden;
  verify_result r;
  r.exit_code = 1;
  r.golden = "tiny.v4gold", r.test = "hf-wrong-theta.v4gold", r.numerics = "float32";
  r.mode = verify_mode::free_running;
  r.statement =
      "Free-running comparison of float32 values: shows every difference of the whole computation, and where "
      "it begins; what comes after it is told apart only by dependencies.";
  r.summary = "FAIL: layers.2.attn.q_rope is wrong first; 126 of 204 tensors fail";
  r.seconds = 0.41, r.bytes = 13'400'000;
  std::uint64_t state = 1;
  const auto random = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return double(state >> 11) / 9007199254740992.0;
  };
  const auto add = [&](const std::string& scope, index_t layer, site s) {
    tensor_result t;
    t.scope = scope, t.site = info(s).name, t.name = scope + "." + t.site, t.layer = layer;
    t.to = positions, t.cls = facts(s).cls;
    const bool guilty = layer == 2 && s == site::attn_q_rope;
    const bool after = layer > 2 || (layer == 2 && s >= site::attn_o) || scope == "head";
    t.noise = 2e-7;
    t.severity = guilty ? 3.1e4 : after ? std::pow(10, 1 + 3 * random()) : std::pow(10, -3 * random() - 0.3);
    t.v = guilty || after ? verdict::fail : t.severity > 0.45 ? verdict::warn : verdict::pass;
    if (s == site::hc_attn_mixes || s == site::hc_ffn_mixes) t.v = verdict::missing, t.severity = 0;
    if (after && s == site::ffn_routed && layer == 3) t.v = verdict::tainted;
    if (s == site::gate_indices && !after) t.severity = 0;
    t.m.rel_l2 = t.severity * 1e-5, t.m.max_abs = t.severity * 3e-5, t.m.values = positions * 256,
    t.m.different = t.m.values / 3;
    if (t.v == verdict::fail) t.why = "relative L2 " + std::to_string(t.m.rel_l2) + ", allowed 1e-05";
    if (guilty) r.culprit.found = true, r.culprit.at = r.tensors.size();
    ++r.counts[static_cast<std::size_t>(t.v)];
    r.tensors.push_back(t);
  };
  for (index_t l = 0; l < layers; ++l)
    for (std::size_t i = 0; i < sites.size(); ++i)
      if (const site s = static_cast<site>(i); !is_head_site(s) && exists(s, l < 2 ? 0 : l % 2 ? 128 : 4))
        add("layers." + std::to_string(l), l, s);
  for (const site s : {site::hc_head_pre, site::hc_head_y, site::head_norm, site::logits}) add("head", -1, s);
  culprit_report& c = r.culprit;
  tensor_result& t = r.tensors[c.at];
  t.m.worst = {133, 5, 17}, t.m.worst_test = -0.731234, t.m.worst_expected = 1.0123456;
  c.first_bad_position = 1, c.axes = {"token", "head", "channel"};
  c.patterns = {"all errors in channels 16-31", "the error grows with the position"};
  c.passing_deps = {"layers.2.attn.q_norm"};
  c.hints = {
      {"rope_other_theta", "The queries were rotated with the theta of window layers (10000 without YaRN).",
       3e-7, 0.001, true},
      {"rope_half_split", "half-split rotation", 0.91, 1, false},
      {"rope_shift", "rotated one position off", 0.4, 1, false}};
  for (index_t p = 0; p < positions; ++p)
    c.by_position.push_back(
        {0, p, p == 0 ? 0.0 : 0.9 * (1 - std::exp(-double(p) / 30)) * (0.8 + 0.4 * random()), 0.1});
  error_by_axis head{"head", 0, std::vector<double>(8, 0.125)},
      channel{"channel", 0, std::vector<double>(32, 0)};
  for (std::size_t i = 16; i < 32; ++i) channel.share[i] = std::exp(-double(i - 16) / 5) / 5;
  c.by_axis = {head, channel};
  for (index_t e = 0; e < 8; ++e)
    c.by_expert.push_back({e, positions / 4, e == 5 ? positions / 4 : e, e == 5 ? 1 : 0.1 * double(e) / 8});
  c.guilty_expert = 5;
  c.ulp_histogram[0] = 20000, c.ulp_histogram[4] = 3;
  for (std::size_t i = 12; i < 26; ++i)
    c.ulp_histogram[i] = static_cast<index_t>(4000 * std::exp(-std::pow(double(i) - 19, 2) / 10));
  for (int i = 0; i < 900; ++i) {
    routing_point p{"layers.3.ffn.gate.indices",     0,     i % positions, std::pow(10, -4 * random()),
                    std::pow(10, -2 - 4 * random()), false, false};
    p.flipped = p.margin < 2 * p.score_error, p.legal = p.flipped && random() < 0.8;
    r.routing.push_back(p);
  }
  std::stable_partition(r.routing.begin(), r.routing.end(), [](const routing_point& p) { return p.flipped; });
  for (index_t p = 0; p < positions; ++p)
    r.logits.push_back({"head.logits", 0, p,
                        std::pow(10, -6 + 5 * double(p) / double(positions)) * (0.3 + random()), 0, 0,
                        random() > 0.1, 0.2, 0, 0});
  r.logits_total = {positions, 0.021, 0.09, 0.11, 0.02, 0.005, 0.91, 0.97, 0.013, 0.02, 3e-3, 171};
  r.notes = {"12 values of the golden are not in the test (hc_attn.mixes, hc_ffn.mixes)."};
  return r;
}

}  // namespace dsv4_test
