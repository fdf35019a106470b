// SPDX-License-Identifier: MIT
// Post-conditions of newton_schulz.hpp.  Singular vectors stay and singular values follow the scalar
// polynomial, so a matrix of known singular values tells the whole result.
#include "dsv4/optim/newton_schulz.hpp"

#include <Eigen/SVD>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "dsv4/cpu/optim/muon.hpp"
#include "executors.hpp"
#include "operands.hpp"

namespace dsv4_test {
namespace {

using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

matrix random_matrix(integers& r, index_t rows, index_t columns) {
  matrix x(rows, columns);
  for (index_t n = 0; n < x.size(); ++n) x.data()[n] = r.unit();
  return x;
}
/// rows x columns with these singular values, the larger side having orthonormal vectors.
matrix with_singular_values(integers& r, index_t rows, index_t columns, const std::vector<double>& values) {
  const auto k = static_cast<index_t>(values.size());
  const matrix u = Eigen::HouseholderQR<matrix>(random_matrix(r, rows, rows)).householderQ();
  const matrix v = Eigen::HouseholderQR<matrix>(random_matrix(r, columns, columns)).householderQ();
  matrix x = matrix::Zero(rows, columns);
  for (index_t i = 0; i < k; ++i) x += values[std::size_t(i)] * u.col(i) * v.col(i).transpose();
  return x;
}
std::vector<double> singular_values(const matrix& x) {
  const Eigen::VectorXd s = Eigen::JacobiSVD<Eigen::MatrixXd>(x).singularValues();
  return {s.data(), s.data() + s.size()};
}
template <class T, class E>
matrix orthogonalised(E e, const matrix& x) {
  tensor<T, 2> in(x.rows(), x.cols()), out(x.rows(), x.cols());
  for (index_t n = 0; n < x.size(); ++n) in.data()[n] = T(x.data()[n]);
  workspace scratch;
  newton_schulz(e, scratch, in.all(), out.all());
  matrix y(x.rows(), x.cols());
  for (index_t n = 0; n < y.size(); ++n) y.data()[n] = out.data()[n];
  return y;
}
/// What becomes of a singular value that is s0 of the norm: the fast steps alone, or all.
double scalar(double s0, bool all = true) {
  double s = s0;
  for (const auto& p : hybrid_newton_schulz) {
    for (int step = 0; step < p.steps; ++step) s = p.a * s + p.b * s * s * s + p.c * s * s * s * s * s;
    if (!all) break;
  }
  return s;
}
double largest_difference(const matrix& a, const matrix& b) { return (a - b).cwiseAbs().maxCoeff(); }

/// Rounding of a result in T under E: where E iterates in T, and all the matrix's directions are strong.
template <class E, class T>
inline constexpr double rounding = std::is_same_v<T, float> ? 0x1p-18 : 1e-13;

}  // namespace

TEST_CASE("the scalar polynomial keeps the report's promises", "[optim]") {
  double most = 0;
  for (double s = 1; s > 1e-12; s *= 0.9999) {
    const double fast = scalar(s, false), end = scalar(s);
    if (s >= 3e-4) CHECK((0.68 < fast && fast < 1.14));        // after the eight fast steps
    if (s >= 3e-4) CHECK((1 - 1e-15 < end && end < 1.00054));  // (1)
    if (s >= 1e-4) CHECK((1 - 1e-15 < end && end <= 1.0021));
    CHECK(end <= newton_schulz_growth * s);
    most = std::max(most, end);
  }
  CHECK(most <= 1.0021);  // (2)
  CHECK(scalar(1e-5) == Catch::Approx(0.686).margin(5e-4));
}

TEMPLATE_TEST_CASE("singular values go to one, singular vectors stay", "[optim]", DSV4_TEST_EXECUTORS) {
  integers r{11};
  const auto check = [&]<class T>(T, index_t rows, index_t columns) {
    CAPTURE(rows, columns, sizeof(T));
    const matrix x = random_matrix(r, rows, columns);
    const matrix y = orthogonalised<T>(TestType{}, x);
    // (1) (2) each singular value of y is the polynomial's value of that of x
    const double norm = x.norm();
    auto before = singular_values(x), after = singular_values(y);
    for (auto& s : before) s = scalar(s / norm);
    std::sort(before.begin(), before.end()), std::sort(after.begin(), after.end());
    for (std::size_t i = 0; i < after.size(); ++i) {
      CHECK(close(after[i], before[i], 4 * rounding<TestType, T>));
      CHECK((1 - 1e-5 < after[i] && after[i] < 1.0006));
    }
    // y x^T is symmetric and positive: the polar factor of x, not another orthogonal matrix
    const matrix polar = rows <= columns ? matrix(y * x.transpose()) : matrix(y.transpose() * x);
    CHECK(largest_difference(polar, polar.transpose()) <= 8 * rounding<TestType, T> * norm);
    CHECK(polar.trace() > 0);
    // (4) (5)
    CHECK(largest_difference(orthogonalised<T>(TestType{}, matrix(x.transpose())), matrix(y.transpose())) <=
          rounding<TestType, T>);
    CHECK(largest_difference(orthogonalised<T>(TestType{}, matrix(x * 0x1p20)), y) == 0);
    CHECK(largest_difference(orthogonalised<T>(TestType{}, matrix(x * 0x1p-20)), y) == 0);
  };
  for (const auto& [rows, columns] :
       {std::pair<index_t, index_t>{1, 1}, {1, 7}, {7, 1}, {2, 3}, {16, 40}, {40, 16}, {33, 65}}) {
    check(double{}, rows, columns);
    check(float{}, rows, columns);
  }
}

TEMPLATE_TEST_CASE("sizes around the tiles of the fast path", "[optim]", DSV4_TEST_EXECUTORS) {
  integers r{12};
  for (const auto& [rows, columns] :
       {std::pair<index_t, index_t>{127, 130}, {128, 128}, {300, 131}, {140, 520}}) {
    CAPTURE(rows, columns);
    const matrix x = random_matrix(r, rows, columns);
    const matrix y = orthogonalised<double>(exec::ref{}, x);
    CHECK(largest_difference(orthogonalised<double>(TestType{}, x), y) <= 1e-12);
    if (std::abs(rows - columns) > 64) {  // else its smallest singular values are those of the next test
      CHECK(largest_difference(orthogonalised<float>(TestType{}, x), y) <= 1e-5);
      const matrix unit = rows <= columns ? matrix(y * y.transpose()) : matrix(y.transpose() * y);
      CHECK(largest_difference(unit, matrix::Identity(unit.rows(), unit.rows())) <= 0.0012);
    }
  }
}

TEMPLATE_TEST_CASE("ill-conditioned, low rank, zero", "[optim]", DSV4_TEST_EXECUTORS) {
  integers r{13};
  // Singular values over eight decades: each ends where the polynomial says, small ones too.
  std::vector<double> values;
  for (int i = 0; i <= 16; ++i) values.push_back(std::pow(10, -0.5 * i));
  for (const bool tall : {false, true}) {
    const matrix x = tall ? with_singular_values(r, 30, 17, values) : with_singular_values(r, 17, 30, values);
    auto expected = values;
    for (auto& s : expected) s = scalar(s / x.norm());
    auto found = singular_values(orthogonalised<double>(TestType{}, x));
    std::sort(expected.begin(), expected.end()), std::sort(found.begin(), found.end());
    for (std::size_t i = 0; i < values.size(); ++i) CHECK(std::fabs(found[i] - expected[i]) <= 1e-9);
    CHECK(found.back() <= 1.0021);  // (2)
  }
  // Rank 3 of 20: three singular values at one, the others no more than the grown rounding of the entries.
  const matrix low = with_singular_values(r, 20, 28, {3, 1, 0.2});
  const auto check_rank = [&]<class T>(T) {
    auto s = singular_values(orthogonalised<T>(TestType{}, low));
    std::sort(s.rbegin(), s.rend());
    for (int i = 0; i < 3; ++i) CHECK(close(s[std::size_t(i)], 1, 0.0006));
    CHECK(s[3] <= newton_schulz_growth * 8 * double(std::numeric_limits<T>::epsilon()));
  };
  check_rank(double{});
  check_rank(float{});
  // The exact executors have no rounding of their own to grow: float results differ from ref's by one store.
  if (std::is_same_v<wide_t<TestType>, double>)
    CHECK(largest_difference(orthogonalised<float>(TestType{}, low),
                             orthogonalised<float>(exec::ref{}, low)) <= 0x1p-24);
  // (3)
  const matrix zero = matrix::Zero(5, 9);
  CHECK(orthogonalised<double>(TestType{}, zero) == zero);
  CHECK(orthogonalised<float>(TestType{}, zero) == zero);
  // A single entry, of any size, has one direction.
  for (const double size : {1e-300, 1e-160, 1., 1e200, std::numeric_limits<double>::denorm_min()}) {
    matrix one = zero;
    one(3, 4) = -size;
    const matrix y = orthogonalised<double>(TestType{}, one);
    CHECK(close(y(3, 4), -scalar(1), 1e-14));
    CHECK(std::fabs(y.sum() - y(3, 4)) == 0);
  }
}

TEMPLATE_TEST_CASE("a NaN or an infinity is not hidden; empty and unequal shapes", "[optim]",
                   DSV4_TEST_EXECUTORS) {
  // (6)
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    for (const index_t at : {0, 5, 11})
      for (const double rest : {0., 1.}) {
        matrix x = matrix::Constant(3, 4, rest);
        x.data()[at] = bad;
        CHECK(orthogonalised<double>(TestType{}, x).array().isNaN().all());
        CHECK(orthogonalised<float>(TestType{}, x).array().isNaN().all());
      }
  TestType e;
  workspace scratch;
  tensor<float, 2> empty(0, 4), a(2, 3), b(3, 2);
  newton_schulz(e, scratch, empty.all(), empty.all());
  CHECK_THROWS_AS(newton_schulz(e, scratch, a.all(), b.all()), contract_violation);
  // In place.
  integers r{14};
  const matrix x = random_matrix(r, 6, 5);
  tensor<double, 2> y(6, 5);
  std::copy_n(x.data(), x.size(), y.data());
  newton_schulz(e, scratch, y.all(), y.all());
  const matrix expected = orthogonalised<double>(e, x);
  CHECK(std::equal(y.data(), y.data() + y.size(), expected.data()));
}

}  // namespace dsv4_test
