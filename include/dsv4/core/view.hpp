// SPDX-License-Identifier: MIT
#pragma once
/// A view is what a tensor is to an algorithm: a pointer and its extents, row-major and dense, never
/// an owner.  The memory space is part of the type, so that a view of device memory cannot bind to a
/// host kernel.  A subscript on the first axis gives the view of one row: x[t] of x [t, h, d] is [h, d].
/// Elements can be read and written through views of host memory only; a kernel of another space takes
/// `in_kernel(v)` of its arguments, the same elements with subscripts.
#include <array>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "config_macros.hpp"

namespace dsv4 {

/// Every size and every position: signed, 64 bits.
using index_t = std::int64_t;

/// A size or position for the standard library, which counts unsigned.
template <class I>
  requires(std::is_integral_v<I> || std::is_enum_v<I>)
constexpr std::size_t usize(I i) {
  return static_cast<std::size_t>(i);
}

/// Memory spaces.
namespace mem {
struct host {};
struct device {};
}  // namespace mem

/// Memory that the host may read and write element by element.
template <class Mem>
concept host_memory = std::same_as<Mem, mem::host>;

template <class T, int R, class Mem = mem::host>
class view {
  static_assert(R >= 1, "view: at least one axis");

 public:
  using value_type = std::remove_const_t<T>;
  static constexpr int rank = R;
  using shape = std::array<index_t, std::size_t{R}>;

  constexpr view() = default;

  /// data: `n[0] * ... * n[R-1]` elements, row-major.
  constexpr view(T* data, shape n) : data_(data) {
    for (std::size_t a = 0; a < R; ++a) n_[a] = n[a];
  }
  template <class... N>
    requires(sizeof...(N) == R && (std::is_convertible_v<N, index_t> && ...))
  constexpr view(T* data, N... n) : data_(data), n_{static_cast<index_t>(n)...} {}

  /// A view of mutable elements is a view of constant ones.
  constexpr operator view<const T, R, Mem>() const
    requires(!std::is_const_v<T>)
  {
    return {data_, extents()};
  }

  constexpr T* data() const { return data_; }
  constexpr index_t extent(int axis) const { return n_[axis]; }
  constexpr shape extents() const {
    shape n{};
    for (std::size_t a = 0; a < R; ++a) n[a] = n_[a];
    return n;
  }
  /// Number of elements.
  constexpr index_t size() const {
    index_t s = 1;
    for (int a = 0; a < R; ++a) s *= n_[a];
    return s;
  }
  /// Number of elements of one row of the first axis.
  constexpr index_t row_size() const {
    index_t s = 1;
    for (int a = 1; a < R; ++a) s *= n_[a];
    return s;
  }

  /// Row i of the first axis: an element for R == 1, a view of one axis less otherwise.
  constexpr decltype(auto) operator[](index_t i) const
    requires(R > 1 || host_memory<Mem>)
  {
    assert(0 <= i && i < n_[0]);
    if constexpr (R == 1) {
      return static_cast<T&>(data_[i]);
    } else {
      std::array<index_t, std::size_t{R - 1}> n{};
      for (std::size_t a = 1; a < R; ++a) n[a - 1] = n_[a];
      return view<T, R - 1, Mem>(data_ + i * row_size(), n);
    }
  }
  template <class... I>
    requires(sizeof...(I) == R && host_memory<Mem>)
  constexpr T& operator()(I... i) const {
    const index_t at[std::size_t{R}] = {static_cast<index_t>(i)...};
    index_t offset = 0;
    for (int a = 0; a < R; ++a) {
      assert(0 <= at[a] && at[a] < n_[a]);
      offset = offset * n_[a] + at[a];
    }
    return data_[offset];
  }

  /// Rows [from, to) of the first axis.
  constexpr view rows(index_t from, index_t to) const {
    assert(0 <= from && from <= to && to <= n_[0]);
    auto n = extents();
    n[0] = to - from;
    return {data_ + from * row_size(), n};
  }
  /// The same elements under other extents (their product must not change).
  template <class... N>
  constexpr view<T, static_cast<int>(sizeof...(N)), Mem> reshape(N... n) const {
    view<T, static_cast<int>(sizeof...(N)), Mem> r(data_, n...);
    assert(r.size() == size());
    return r;
  }

  constexpr T* begin() const
    requires host_memory<Mem>
  {
    return data_;
  }
  constexpr T* end() const
    requires host_memory<Mem>
  {
    return data_ + size();
  }

 private:
  T* data_ = nullptr;
  index_t n_[std::size_t{R}] = {};
};

/// The same elements, to be read only: what kernels take as inputs.  Deduces what a conversion would have to spell.
template <class T, int R, class Mem>
constexpr view<const T, R, Mem> read_only(const view<T, R, Mem>& v) {
  return v;
}
/// Of a tensor.
template <class Tensor>
  requires requires(const Tensor& t) { t.all(); }
auto read_only(const Tensor& t) {
  return t.all();
}

template <class T, class Mem = mem::host>
using vec = view<T, 1, Mem>;
template <class T, class Mem = mem::host>
using mat = view<T, 2, Mem>;
template <class T, class Mem = mem::host>
using cube = view<T, 3, Mem>;

/// The elements of v as code that runs where they lie sees them: for the inside of a kernel, and nowhere else.
template <class T, int R, class Mem>
constexpr view<T, R> in_kernel(const view<T, R, Mem>& v) {
  return {v.data(), v.extents()};
}

static_assert(std::is_trivially_copyable_v<view<const float, 3>>);

}  // namespace dsv4
