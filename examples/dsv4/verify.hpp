// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 verify: a run against a golden bundle, and the proof that a bundle catches the known bugs.
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace cli {

struct verify_arguments {
  std::filesystem::path golden, test, model, junit, html, issue;
  std::string mode = "auto", policy = "faithful", map, ids, numerics, only, layers, positions,
              allow_skip = "^$", json;
  double k_noise = 8;
  bool all = false, werror = false, no_hints = false, no_hash = false, mutate = false;
  std::vector<int> bugs;
  std::vector<std::filesystem::path> more;  ///< with mutate: bundles after `test`
};

/// The verb; `run` becomes what the arguments ask for.  Exit codes: golden.hpp.
void add_verify(CLI::App& app, std::function<void()>& run);

/// --mutate; returns the exit code.  In a file of its own: it compiles whole models.
int run_mutations(const verify_arguments&);

/// `text` to a file, or to standard output for "-".  @throws dsv4::error it cannot be written
void write_report(const std::filesystem::path& to, const std::string& text);

}  // namespace cli
