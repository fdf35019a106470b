// SPDX-License-Identifier: MIT
#pragma once
/// The k largest of a row, listed by falling value, ties to the lower index.
/// @paper{DSV4, section 2.3.1}
/// axes     s candidate · k choice
/// oracle   numpy stable argsort of the negated scores (the released code leaves ties open)
/// deviates ties are decided: the lower index wins
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>

#include "../core/view.hpp"
#include "../num/round.hpp"

namespace dsv4 {

/// Writes min(k, scores.size()) indices; `order` is scratch of scores.size() elements.
/// The order is total (value, then index), so the result does not depend on the algorithm.
template <class T>
void top_k(std::span<const T> scores /*[s]*/, std::span<std::int32_t> order /*[s]*/,
           std::span<std::int32_t> chosen /*[k]*/) {
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const double x = to_double(scores[static_cast<std::size_t>(a)]),
                 y = to_double(scores[static_cast<std::size_t>(b)]);
    return x != y ? x > y : a < b;
  };
  const auto k = static_cast<std::ptrdiff_t>(std::min(chosen.size(), order.size()));
  std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
  std::copy_n(order.begin(), k, chosen.begin());
}

}  // namespace dsv4
