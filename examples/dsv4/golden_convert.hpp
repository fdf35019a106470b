// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 golden convert: another engine's dump as a bundle.
#include <functional>

namespace CLI {
class App;
}

namespace cli {

/// Adds `convert` to the verb `golden`; `run` becomes what the arguments ask for.
void add_golden_convert(CLI::App& golden, std::function<void()>& run);

}  // namespace cli
