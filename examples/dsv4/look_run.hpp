// SPDX-License-Identifier: MIT
#pragma once
/// A run of dsv4 look as the data of its page: aggregates over all tokens, and everything about a few of them.
#include <nlohmann/json.hpp>

#include "look.hpp"

namespace cli {

/// `rounding`: also compare with float32 numerics on the first tokens.
nlohmann::ordered_json look_run(const watch_options& o, bool rounding);

}  // namespace cli
