// SPDX-License-Identifier: MIT
#pragma once
/// The executors that every test of an operator or of a property runs on:
///   TEMPLATE_TEST_CASE("...", "[...]", DSV4_TEST_EXECUTORS)
/// A new one joins all of them here, with its header and its name.
#include <type_traits>

#include "dsv4/core/exec.hpp"
#include "dsv4/cpu/cpu.hpp"

#define DSV4_TEST_EXECUTORS dsv4::exec::ref, dsv4::exec::cpu, dsv4::exec::cpu_fast

namespace dsv4_test {

/// How far a result stored as float may be from a double evaluation, relative to the size of the terms:
/// one rounding for wide = double, a float sum of a few hundred terms otherwise.
template <class E>
inline constexpr double float_sum = std::is_same_v<dsv4::wide_t<E>, double> ? 0x1p-23 : 0x1p-17;
/// The same for a result that stays wide.
template <class E>
inline constexpr double wide_sum = std::is_same_v<dsv4::wide_t<E>, double> ? 1e-12 : 0x1p-17;

}  // namespace dsv4_test
