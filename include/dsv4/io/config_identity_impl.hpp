// SPDX-License-Identifier: MIT
#pragma once
/// The bodies of config_identity.hpp.
#include <nlohmann/json.hpp>

#include "config_identity.hpp"
#include "config_out.hpp"

namespace dsv4::io {

DSV4_INLINE sha256_digest sha256_of(const config& c) { return sha256_of(to_json(c).dump()); }

}  // namespace dsv4::io
