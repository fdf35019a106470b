// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 chat: a conversation on the terminal.
#include <functional>

namespace CLI {
class App;
}

namespace cli {

void add_chat(CLI::App& app, std::function<void()>& run);

}  // namespace cli
