// SPDX-License-Identifier: MIT
#pragma once
/// What an exercise is checked with: cases, the answer that the library gives (which the goldens hold), and yours.
///
/// A check walks its cases in order and stops at the first where the two differ, so that what it prints is the smallest
/// thing that is wrong.  Values are compared bit for bit, unless the exercise says how far they may differ.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace exercise {

/// Stands where your code belongs.
struct unsolved : std::logic_error {
  unsolved() : std::logic_error("not solved yet: write it between the two marks") {}
};

/// A case: what goes in, in words, and the two answers, as lists of numbers.
struct one_case {
  std::string input;
  std::function<std::vector<double>()> expected, found;
};

/// xorshift, so that every machine draws the same cases.
class numbers {
 public:
  /// Uniform in [-1, 1).
  double next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<double>(state_ >> 11) / static_cast<double>(1ull << 52) - 1;
  }
  std::vector<double> row(int n, double scale = 1) {
    std::vector<double> r;
    for (int i = 0; i < n; ++i) r.push_back(scale * next());
    return r;
  }

 private:
  unsigned long long state_ = 88172645463325252ull;
};

inline std::string text_of(const std::vector<double>& v) {
  std::string out = "[";
  for (std::size_t i = 0; i < v.size() && i < 8; ++i) {
    char one[40];
    std::snprintf(one, sizeof one, i ? ", %.9g" : "%.9g", v[i]);
    out += one;
  }
  return out + (v.size() > 8 ? ", ...]" : "]");
}

/// Exit code of the exercise: 0 right, 1 wrong, 2 not solved yet.  `near`: relative error that is allowed, 0 for none.
inline int check(const char* name, const std::vector<one_case>& cases, double near = 0) {
  for (std::size_t i = 0; i < cases.size(); ++i) {
    std::vector<double> found;
    const std::vector<double> expected = cases[i].expected();
    try {
      found = cases[i].found();
    } catch (const unsolved& e) {
      std::printf("%s: %s\n", name, e.what());
      return 2;
    }
    bool same = found.size() == expected.size();
    std::size_t at = 0;
    for (; same && at < found.size(); ++at) {
      const double a = found[at], b = expected[at];
      same = (std::isnan(a) && std::isnan(b)) || a == b || std::fabs(a - b) <= near * std::fabs(b);
      if (near == 0 && a == 0 && b == 0) same = std::signbit(a) == std::signbit(b);
      if (!same) break;
    }
    if (same) continue;
    std::printf(
        "%s: case %zu of %zu is the first that differs\n  input     %s\n  expected  %s\n  yours     %s\n",
        name, i + 1, cases.size(), cases[i].input.c_str(), text_of(expected).c_str(), text_of(found).c_str());
    if (found.size() != expected.size())
      std::printf("  %zu values, expected %zu\n", found.size(), expected.size());
    else
      std::printf("  value %zu: expected %.17g, yours %.17g\n", at, expected[at], found[at]);
    return 1;
  }
  std::printf("%s: right, %zu cases\n", name, cases.size());
  return 0;
}

}  // namespace exercise
