// SPDX-License-Identifier: MIT
#pragma once
/// Where test data lies.  The project carries what its tests need; the rest of the golden data is found
/// through the environment variable DSV4_GOLDEN, by default in shared/golden beside the checkout.
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>

/// A file or folder of the project's own test data.
inline std::filesystem::path test_data(std::string_view relative) {
  return std::filesystem::path(DSV4_SOURCE_DIR) / "reference_tests/data" / relative;
}

/// A file or folder of the golden data: the full set where it is present, else the project's own copy.
inline std::optional<std::filesystem::path> golden(std::string_view relative) {
  const char* set = std::getenv("DSV4_GOLDEN");
  const std::filesystem::path full =
      set ? std::filesystem::path(set) : std::filesystem::path(DSV4_SOURCE_DIR) / "../shared/golden";
  for (const auto& p : {full / relative, test_data(relative)})
    if (std::filesystem::exists(p)) return p;
  return std::nullopt;
}
