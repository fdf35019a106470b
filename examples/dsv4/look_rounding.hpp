// SPDX-License-Identifier: MIT
#pragma once
/// What the rounding of activations does to a run: the same tokens with `official` and with `float32` numerics, on the
/// same stored weights, compared site by site.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <dsv4/core/config.hpp>
#include <dsv4/core/tap.hpp>
#include <dsv4/model/weights.hpp>

namespace cli {

using dsv4::index_t;

struct site_difference {
  dsv4::tap_scope scope;
  dsv4::site where;
  /// Float sites: root mean square of the difference over that of the float32 value.  Integer sites: the share of
  /// float32's choices that official did not make.
  double value = 0;
};

struct rounding_result {
  std::vector<site_difference> sites;  ///< in the order of execution
  double kl = 0;                       ///< mean over the tokens of KL(float32 || official), in nats
  double agreement = 0;                ///< share of tokens whose likeliest next token is the same
};

/// Errors accumulate from layer to layer, as they do in use.  Of a site with more than 16,384 numbers every so
/// many-th is compared.
rounding_result compare_rounding(const dsv4::config& c, const dsv4::model_weights<>& w,
                                 std::span<const std::int32_t> ids, bool mtp, int threads);

}  // namespace cli
