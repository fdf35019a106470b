// SPDX-License-Identifier: MIT
#include "dsv4/core/fold.hpp"

#include <algorithm>
#include <vector>

#include "catch.hpp"

using namespace dsv4;
using dsv4::index_t;

TEST_CASE("fold: every term once, whatever the length", "[core]") {
  for (index_t n = 0; n <= 100; ++n) {
    std::vector<int> seen(std::size_t(n), 0);
    const auto term = [&](index_t i) {
      ++seen[std::size_t(i)];
      return double(i + 1);
    };
    CHECK(fold(n, 0.0, term) == double(n * (n + 1) / 2));  // integers: exact in any order
    CHECK(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
    for (index_t top = 0; top < n; ++top)
      CHECK(fold(
                n, -1, [=](index_t i) { return i == top ? 5 : 0; },
                [](int a, int b) { return std::max(a, b); }) == 5);
  }
}
