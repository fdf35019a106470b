// SPDX-License-Identifier: MIT
#pragma once
/// Where the memory of a space comes from, and the one crossing between spaces.
///
/// Every tensor, cache and scratch block takes its bytes from `memory_space<Mem>`; an executor for a new space
/// specialises it once.  `copy(e, from, to)` is the only way from one space into another: no view of device
/// memory has elements for the host.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "contract.hpp"
#include "exec.hpp"

namespace dsv4 {

/// Rows start on a cache line: 64 bytes, the line of every CPU this library meets.
inline constexpr std::size_t alignment = 64;

/// allocate(bytes)         uninitialised, aligned to `alignment` or more; @throws std::bad_alloc
/// release(p, bytes)       what allocate(bytes) gave
/// zero(p, bytes)          every byte 0
/// copy(to, from, bytes)   within the space
template <class Mem>
struct memory_space {
  static_assert(has_kernel<Mem>, "memory_space: nobody has said where memory of this space comes from");
};

template <>
struct memory_space<mem::host> {
  static void* allocate(std::size_t bytes) {
    const std::size_t whole = (bytes + alignment - 1) / alignment * alignment;
    void* p = std::aligned_alloc(alignment, whole ? whole : alignment);
    if (!p) throw std::bad_alloc();
    return p;
  }
  static void release(void* p, std::size_t) noexcept { std::free(p); }
  static void zero(void* p, std::size_t bytes) { std::memset(p, 0, bytes); }
  static void copy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
};

namespace kernel {
/// run(e, from, to): the elements of one view into another of the same extents, in this space or between this one
/// and the host's.  When it returns, elements that lie in host memory are there.
template <class E>
struct copy {
  static_assert(has_kernel<E>, "copy: no kernel for this executor");
};
template <host_execution E>
struct copy<E> {
  template <class T, int R>
  static void run(E&, view<const T, R> from, view<T, R> to) {
    std::copy_n(from.data(), from.size(), to.data());
  }
};
}  // namespace kernel

/// Copies a view into another, whatever their spaces.  @throws contract_violation if their extents differ.
template <execution E, class S, class T, int R, class From, class To>
  requires std::is_same_v<std::remove_const_t<S>, T>
void copy(E& e, const view<S, R, From>& from, const view<T, R, To>& to) {
  expects(from.extents() == to.extents(), "copy: from and to disagree");
  kernel::copy<E>::run(e, view<const T, R, From>(from), to);
}

}  // namespace dsv4
