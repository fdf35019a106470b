// SPDX-License-Identifier: MIT
// Exercise 6: Root-mean-square norm.
//
// y = w x / sqrt(mean(x^2) + eps), in double, stored to bf16 once. (store<dsv4::bf16> of num/round.hpp is that
// store.)
//
// To read: include/dsv4/op/rms_norm.hpp.  To check: docs/exercises/check.py 6

#include "exercise.hpp"

#include <array>

#include <dsv4/op/rms_norm.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> norm(std::vector<double> x, std::vector<double> w, double eps) {
  throw exercise::unsolved();
}
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  const auto bf16_row = [&](int n, double scale) {
    list r = draw.row(n, scale);
    for (double& v : r) v = dsv4::rounded<dsv4::bf16>(v);
    return r;
  };
  for (const int n : {1, 2, 3, 64, 65}) {
    const list x = bf16_row(n, 3), w = bf16_row(n, 1);
    cases.push_back({std::to_string(n) + " channels",
                     [=] {
                       double squares = 0;
                       for (const double v : x) squares += v * v;
                       const double r = dsv4::inverse_rms(squares, double(n), 1e-6);
                       list out;
                       for (int i = 0; i < n; ++i)
                         out.push_back(dsv4::rounded<dsv4::bf16>(x[std::size_t(i)] * r * w[std::size_t(i)]));
                       return out;
                     },
                     [=] { return norm(x, w, 1e-6); }});
  }
  return exercise::check("6 Root-mean-square norm", cases);
}
