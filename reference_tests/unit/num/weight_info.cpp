// SPDX-License-Identifier: MIT
#include <dsv4/num/weight_info.hpp>

#include "catch.hpp"

namespace dsv4 {

TEST_CASE("what a weight says of itself", "[weight_info]") {
  const weight_info m = projection_weight("layers.0.attn.wq_a", 12, {30, channel_kind::hidden});
  CHECK(m.name == "layers.0.attn.wq_a.weight");
  CHECK(m.scale_name() == "layers.0.attn.wq_a.scale");
  CHECK(m.shape == std::vector<index_t>{12, 30});
  CHECK(m.channels == std::vector{channel_kind::other, channel_kind::hidden});
  CHECK(m.format == weight_format::fp8);
  CHECK(m.size() == 360);
  CHECK(m.columns() == 30);
  CHECK(m.matrices == std::vector<index_t>{12});  // one, for Muon
  CHECK(m.expert == -1);
  CHECK(weight_info(m).of_matrices({4, 8}).matrices == std::vector<index_t>{4, 8});

  const weight_info v = norm_weight("norm", 30);
  CHECK(v.start == initial_value::one);
  CHECK(v.rule == update_rule::adamw);
  CHECK(v.matrices.empty());
  CHECK(v.columns() == 0);
  CHECK(v.size() == 30);
  CHECK(
      weight_info("layers.0.hc_attn_fn", {{24}, {128}}, weight_format::f32, update_rule::muon).scale_name() ==
      "layers.0.hc_attn_fn.scale");
}

}  // namespace dsv4
