// SPDX-License-Identifier: MIT
#pragma once
/// Preconditions of public functions, checked once at the front; inner kernels assume them.
/// A failed check says both values, not only the expression.
#include <string>
#include <string_view>

#include "error.hpp"
#include "view.hpp"

namespace dsv4 {

/// @throws contract_violation with `what` unless `ok`.
inline void expects(bool ok, std::string_view what) {
  if (!ok) [[unlikely]]
    throw contract_violation(std::string(what));
}

/// Two sizes that must agree.  @throws contract_violation "what: found A, expected B".
inline void expects_equal(index_t found, index_t expected, std::string_view what) {
  if (found != expected) [[unlikely]]
    throw contract_violation(std::string(what) + ": found " + std::to_string(found) + ", expected " +
                             std::to_string(expected));
}

/// A value that must lie in [low, high).  @throws contract_violation.
inline void expects_in(index_t value, index_t low, index_t high, std::string_view what) {
  if (value < low || value >= high) [[unlikely]]
    throw contract_violation(std::string(what) + ": found " + std::to_string(value) + ", expected " +
                             std::to_string(low) + " <= value < " + std::to_string(high));
}

}  // namespace dsv4
