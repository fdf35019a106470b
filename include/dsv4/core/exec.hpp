// SPDX-License-Identifier: MIT
#pragma once
/// Executors: where the work runs and how wide its sums are.
///
///   exec::ref                       the specification: plain loops, double inside, one thread
///   exec::cpu  = basic_cpu<exact>   the product: threads and SIMD, sums so accurate that every
///                                   narrow store has the bits of exec::ref (their order is free)
///   exec::cpu_fast = basic_cpu<fast>   the same with float sums, one canonical order per concept
///
/// A hot concept X has one customisation point, `kernel::X<Exec>`; the primary template is an error,
/// never a default, so that a forgotten include is a compile error and not a slow path.
#include <type_traits>

#include "view.hpp"

namespace dsv4 {

/// How a fast executor forms the sums between two narrow stores.
enum class accumulate {
  exact,  ///< double or exact integers: the stored bits equal those of exec::ref
  fast,   ///< float; deterministic over threads, chunks and batch, judged operator by operator
};

namespace exec {

/// Plain loops in the paper's order.
struct ref {
  using memory = mem::host;
  using wide = double;
};

/// oneTBB, SIMD, Eigen.  Kernels in dsv4/cpu; threads == 0 means all of the machine's.
template <accumulate A>
struct basic_cpu {
  using memory = mem::host;
  using wide = std::conditional_t<A == accumulate::exact, double, float>;
  static constexpr accumulate mode = A;
  int threads = 0;
};
using cpu = basic_cpu<accumulate::exact>;
using cpu_fast = basic_cpu<accumulate::fast>;

}  // namespace exec

template <class E>
concept execution = requires {
  typename E::memory;
  typename E::wide;
};
template <class E>
using mem_of = typename E::memory;
/// An executor that works in host memory: the generic bodies of kernels, plain loops, are for all of these.
template <class E>
concept host_execution = execution<E> && host_memory<mem_of<E>>;
/// The type of values that are not stored in a narrow format, e.g. routing scores and logits.
template <class E>
using wide_t = typename E::wide;

/// Never true: makes the static_assert of a primary kernel template fire on use, not on definition.
template <class>
inline constexpr bool has_kernel = false;

namespace kernel {
/// run(e, f): f() with the executor's resources (its threads) around it.
template <class E>
struct scope {
  static_assert(has_kernel<E>, "scope: no kernel for this executor");
};
template <>
struct scope<exec::ref> {
  template <class F>
  static void run(exec::ref&, F&& f) {
    f();
  }
};
}  // namespace kernel

}  // namespace dsv4
