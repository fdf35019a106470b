// SPDX-License-Identifier: MIT
#pragma once
/// xtensor arrays as views, and views as xtensor arrays: the only header that names xtensor's types.
/// Include paths moved between series (flat up to 0.25, nested after); this header knows both.
///
/// Two traps of xtensor itself: `xt::xtensor<float, 1> w({n})` is ONE element of value n (write
/// `xt::xtensor<float, 1>::from_shape({n})`), and a lazy reducer with keep_dims inside an expression gives
/// wrong numbers (evaluate it first).
#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>

#include "../core/view.hpp"

namespace dsv4::adapt {

/// A view of an array's elements; the array must outlive it and not be resized.
template <class T, std::size_t R>
view<T, static_cast<int>(R)> as_view(xt::xtensor<T, R>& a) {
  std::array<index_t, R> n{};
  for (std::size_t i = 0; i < R; ++i) n[i] = static_cast<index_t>(a.shape(i));
  return {a.data(), n};
}
template <class T, std::size_t R>
view<const T, static_cast<int>(R)> as_view(const xt::xtensor<T, R>& a) {
  std::array<index_t, R> n{};
  for (std::size_t i = 0; i < R; ++i) n[i] = static_cast<index_t>(a.shape(i));
  return {a.data(), n};
}

/// A copy of a view as an owning array.
template <class T, int R>
xt::xtensor<std::remove_const_t<T>, static_cast<std::size_t>(R)> to_xtensor(view<T, R> v) {
  std::array<std::size_t, static_cast<std::size_t>(R)> shape{};
  for (int i = 0; i < R; ++i) shape[static_cast<std::size_t>(i)] = static_cast<std::size_t>(v.extent(i));
  auto a = xt::xtensor<std::remove_const_t<T>, static_cast<std::size_t>(R)>::from_shape(shape);
  std::copy(v.begin(), v.end(), a.data());
  return a;
}

}  // namespace dsv4::adapt
