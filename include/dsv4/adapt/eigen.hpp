// SPDX-License-Identifier: MIT
#pragma once
/// Views of rank 1 and 2 as Eigen maps: no copy, row-major.
#include <Eigen/Core>

#include "../core/view.hpp"

namespace dsv4::adapt {

template <class T>
using row_major = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using eigen_matrix = Eigen::Map<std::conditional_t<std::is_const_v<T>, const row_major<T>, row_major<T>>>;

/// [rows, cols]; a vector becomes one column.
template <class T>
eigen_matrix<T> as_eigen(view<T, 2> v) {
  return {v.data(), v.extent(0), v.extent(1)};
}
template <class T>
eigen_matrix<T> as_eigen(view<T, 1> v) {
  return {v.data(), v.extent(0), 1};
}

}  // namespace dsv4::adapt
