// SPDX-License-Identifier: MIT
#pragma once
/// The identity of a configuration in bundles and state files: the hash of its canonical text.
#include "config_out.hpp"
#include "sha256.hpp"

namespace dsv4::io {

/// Keys sorted, no white space: equal exactly for equal configurations.
inline sha256_digest sha256_of(const config& c) { return sha256_of(to_json(c).dump()); }

}  // namespace dsv4::io
