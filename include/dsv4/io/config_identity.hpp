// SPDX-License-Identifier: MIT
#pragma once
/// The identity of a configuration in bundles and state files: the hash of its canonical text.
#include "../core/config.hpp"
#include "sha256.hpp"

namespace dsv4::io {

/// Keys sorted, no white space: equal exactly for equal configurations.
sha256_digest sha256_of(const config& c);

}  // namespace dsv4::io

#if !defined(DSV4_COMPILED)
#include "config_identity_impl.hpp"
#endif
