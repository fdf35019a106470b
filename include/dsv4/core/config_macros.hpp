// SPDX-License-Identifier: MIT
#pragma once
/// The only header of the specification that asks what the compiler is, and whether the program links
/// dsv4::compiled (docs/building.md); the only one with macros.
/// Header-only code takes its floating-point rules from the program that includes it; the ones that
/// would change bits are refused here, and the rest of the library needs no such test.

#if defined(__FAST_MATH__)
#error \
    "dsv4: -ffast-math changes the results (NaN, signed zero, subnormals, order of sums). Remove it; -ffp-contract=off is what the project itself builds with."
#endif
#if __cplusplus < 202002L
#error "dsv4 needs C++20 (-std=c++20)."
#endif

/// Marks a formula that kernels on a device call as well as those on the host: num/ and num/formulas.hpp.  Such a
/// function computes on its arguments alone; it calls nothing that is not marked, but for <cmath>, which nvcc has.
#if defined(__CUDACC__)
#define DSV4_HOST_DEVICE __host__ __device__
#else
#define DSV4_HOST_DEVICE
#endif

/// throw in such a function.  On a device there are no exceptions: the kernel is stopped.
#if defined(__CUDA_ARCH__)
#define DSV4_THROW(exception) (__trap(), __builtin_unreachable())
#else
#define DSV4_THROW(exception) throw exception
#endif

// DSV4_COMPILED is defined by the CMake target dsv4::compiled and by nothing else.  With it, a program finds the
// bodies of *_impl.hpp and the usual models in that library; without it, the same headers bring them along.
//   DSV4_INLINE                      before a function's body in a *_impl.hpp
//   DSV4_COMPILED_MODELS(class x)    x<P, E> for each policy and executor in the library; CMakeLists.txt has the other half
//   DSV4_COMPILED_TEMPLATE(...)      one such template
#if defined(DSV4_COMPILED)
#define DSV4_INLINE
#define DSV4_COMPILED_TEMPLATE(...) extern template __VA_ARGS__;
#else
#define DSV4_INLINE inline
#define DSV4_COMPILED_TEMPLATE(...)
#endif
#define DSV4_COMPILED_MODELS(what)                        \
  DSV4_COMPILED_TEMPLATE(what<official, exec::ref>)       \
  DSV4_COMPILED_TEMPLATE(what<official, exec::cpu>)       \
  DSV4_COMPILED_TEMPLATE(what<official, exec::cpu_fast>)  \
  DSV4_COMPILED_TEMPLATE(what<float32<>, exec::ref>)      \
  DSV4_COMPILED_TEMPLATE(what<float32<>, exec::cpu>)      \
  DSV4_COMPILED_TEMPLATE(what<float32<>, exec::cpu_fast>) \
  DSV4_COMPILED_TEMPLATE(what<float32<double>, exec::ref>)
