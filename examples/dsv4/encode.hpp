// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 encode, dsv4 parse: messages to a prompt, and a completion back to a message.  No model is needed.
#include <functional>

namespace CLI {
class App;
}

namespace cli {

/// The two verbs; `run` becomes what the arguments ask for.
void add_encode(CLI::App& app, std::function<void()>& run);
void add_parse(CLI::App& app, std::function<void()>& run);

}  // namespace cli
