// SPDX-License-Identifier: MIT
#pragma once
/// What can be wrong with a bundle, as types: each has its exit code of `dsv4 golden` and `dsv4 verify`.
///
///   missing_input   66   the bundle, its manifest or a file that the manifest names is not there
///   damaged         74   a file is truncated, unreadable, or its bytes do not have the recorded hash
///   format_error     2   it is there and whole, but not a v4gold/1: schema, names, shapes, order
/// All are format_errors: a program that does not care catches one type.
#include "../../core/error.hpp"

namespace dsv4::golden {

/// A file that should be there is not.
struct missing_input : format_error {
  using format_error::format_error;
};
/// A file does not hold the bytes that were written.
struct damaged : format_error {
  using format_error::format_error;
};

}  // namespace dsv4::golden
