// SPDX-License-Identifier: MIT
#pragma once
#include <functional>

#include <CLI/CLI.hpp>

namespace cli {

void add_evaluate(CLI::App& app, std::function<void()>& run);

}  // namespace cli
