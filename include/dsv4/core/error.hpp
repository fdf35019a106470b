// SPDX-License-Identifier: MIT
#pragma once
/// Errors: four kinds, four types, all derived from dsv4::error.
/// A message is written for the person who has to act on it: which file and tensor, what was
/// expected, what was found, and what to do.  Nothing is silently repaired.
#include <stdexcept>
#include <string>

namespace dsv4 {

/// Base of everything this library throws on purpose.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The caller broke a precondition (shape, range, order of calls).  A bug in the calling program.
struct contract_violation : error {
  using error::error;
};

/// A file is not what it claims to be: truncated, inconsistent, wrong shape, wrong type, missing.
struct format_error : error {
  using error::error;
};

/// Valid input that this library does not implement; the message names the feature.
struct unsupported : error {
  using error::error;
};

/// "Cannot happen in valid code": a bug of this library.
struct internal_error : error {
  using error::error;
};

}  // namespace dsv4
