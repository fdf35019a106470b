// SPDX-License-Identifier: MIT
#pragma once
/// The only header of the specification that asks what the compiler is.
/// Header-only code takes its floating-point rules from the program that includes it; the ones that
/// would change bits are refused here, and the rest of the library needs no such test.

#if defined(__FAST_MATH__)
#error \
    "dsv4: -ffast-math changes the results (NaN, signed zero, subnormals, order of sums). Remove it; -ffp-contract=off is what the project itself builds with."
#endif
#if __cplusplus < 202002L
#error "dsv4 needs C++20 (-std=c++20)."
#endif
