// SPDX-License-Identifier: MIT
#pragma once
/// A configuration as JSON in the hub's field names: what io::parse_config reads.
#include <nlohmann/json_fwd.hpp>

#include "../core/config.hpp"

namespace dsv4::io {

/// Round trip: io::parse_config(to_json(c)) gives c.
nlohmann::json to_json(const config& c);

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "config_out_impl.hpp"
#endif
