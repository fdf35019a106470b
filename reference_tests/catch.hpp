// SPDX-License-Identifier: MIT
#pragma once
/// Catch2 version 3 or 2, whichever the machine has, under the names of version 3.
///   SKIP(message)                              v2: a warning, and the test case returns
///   Catch::Approx                              v2: Detail::Approx
///   Catch::Matchers::ContainsSubstring         v2: Contains
///   Catch::Matchers::MessageMatches, BENCHMARK  not here: v2 has none, or Debian builds it without
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>

namespace Catch {
using Detail::Approx;
namespace Matchers {
inline auto ContainsSubstring(std::string const& s, CaseSensitive::Choice c = CaseSensitive::Yes) {
  return Contains(s, c);
}
}  // namespace Matchers
}  // namespace Catch

#if !defined(SKIP)
/// Usable in the body of a TEST_CASE only, like every other way out of it.
#define SKIP(message)             \
  do {                            \
    WARN("skipped: " << message); \
    SUCCEED();                    \
    return;                       \
  } while (false)
#endif
#endif
