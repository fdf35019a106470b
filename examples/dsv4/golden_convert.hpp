// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 golden convert: another engine's dump as a bundle.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace cli {

/// Adds `convert` to the verb `golden`; `run` becomes what the arguments ask for.
void add_golden_convert(CLI::App& golden, std::function<void()>& run);

/// Where maps lie: $DSV4_MAPS, beside an installed program, in the source tree.
std::vector<std::filesystem::path> map_directories();

/// What is said of the rows that a compressor has in calls in which it closes nothing: one line for all.
std::string closing_nothing(std::int64_t arrays);

}  // namespace cli
