// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 golden weights, ladder, micro: checkpoints of recipe weights, bundles of them at real dimensions, and of
/// operators alone.
#include <filesystem>
#include <functional>

#include <dsv4/golden/bundle/bundle.hpp>
#include <dsv4/io/checkpoint.hpp>

namespace CLI {
class App;
}

namespace cli {

/// The weights that a golden is a run of: the checkpoint `model`, or without one what the golden's recipe makes
/// (in a temporary directory, whose files have no names any more when this returns).
/// @throws usage_error no model, and the golden has no recipe; exit_with another configuration
dsv4::io::checkpoint weights_of(const dsv4::golden::bundle& golden, const std::filesystem::path& model);

/// Adds the verbs to `golden`.
void add_golden_weights(CLI::App& golden, std::function<void()>& run);
void add_golden_micro(CLI::App& golden, std::function<void()>& run);

}  // namespace cli
