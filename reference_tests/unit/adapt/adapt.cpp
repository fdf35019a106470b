// SPDX-License-Identifier: MIT
// Bridges between views and the arrays of xtensor and Eigen.
#include <dsv4/adapt/eigen.hpp>
#include <dsv4/adapt/xtensor.hpp>
#include <dsv4/op/rms_norm.hpp>

#include "catch.hpp"

namespace dsv4 {
TEST_CASE("an operator of the library runs on xtensor arrays", "[adapt]") {
  auto x = xt::xtensor<float, 2>::from_shape({2, 3});
  auto w = xt::xtensor<float, 1>::from_shape({3});
  for (std::size_t i = 0; i < 6; ++i) x.data()[i] = float(i);
  for (std::size_t i = 0; i < 3; ++i) w.data()[i] = 2;
  exec::ref e;
  const auto v = adapt::as_view(x);
  rms_norm(e, v, adapt::as_view(std::as_const(w)), 0.0, v);
  // row 1 is (3, 4, 5) / sqrt(50 / 3) * 2
  CHECK(x(1, 0) == Catch::Approx(6 / std::sqrt(50.0 / 3)));
  CHECK(x(1, 2) == Catch::Approx(10 / std::sqrt(50.0 / 3)));

  const auto copy = adapt::to_xtensor(v);
  CHECK(copy.shape(1) == 3);
  CHECK(copy(1, 2) == x(1, 2));
  CHECK(copy.data() != x.data());
}
TEST_CASE("views are Eigen matrices without a copy", "[adapt]") {
  float m[6] = {1, 2, 3, 4, 5, 6}, u[3] = {1, 0, -1};
  const auto a = adapt::as_eigen(view<float, 2>(m, 2, 3));
  const auto b = adapt::as_eigen(view<const float, 1>(u, 3));
  const Eigen::MatrixXf c = a * b;
  CHECK(c(0, 0) == -2);
  CHECK(c(1, 0) == -2);
  CHECK(a.data() == m);
}
}  // namespace dsv4
