// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 gguf: checkpoints to GGUF and back.
#include <functional>

namespace CLI {
class App;
}

namespace cli {

/// Adds the verb; `run` becomes what the arguments ask for.
void add_gguf(CLI::App& app, std::function<void()>& run);

}  // namespace cli
