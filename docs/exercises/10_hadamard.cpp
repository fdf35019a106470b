// SPDX-License-Identifier: MIT
// Exercise 10: The Hadamard rotation.
//
// Before FP4 the indexer's vectors are multiplied with the Hadamard matrix of their size (a power of two),
// divided by its square root. H of size 2s is [[H, H], [H, -H]]. Return the product; the order of your
// additions may round differently.
//
// To read: include/dsv4/op/hadamard.hpp.  To check: docs/exercises/check.py 10

#include "exercise.hpp"

#include <array>

#include <dsv4/op/hadamard.hpp>

using list = std::vector<double>;

// ---- yours
std::vector<double> hadamard_of(std::vector<double> x) { throw exercise::unsolved(); }
// ---- to here

int main() {
  std::vector<exercise::one_case> cases;
  exercise::numbers draw;
  for (const int n : {1, 2, 4, 8, 128}) {
    const list x = draw.row(n);
    cases.push_back({std::to_string(n) + " channels",
                     [=] {
                       list y = x;
                       dsv4::exec::ref e;
                       dsv4::hadamard(e, dsv4::view<double, 2>(y.data(), 1, n));
                       return y;
                     },
                     [=] { return hadamard_of(x); }});
  }
  return exercise::check("10 The Hadamard rotation", cases, 1e-9);
}
