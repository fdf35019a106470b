// SPDX-License-Identifier: MIT
#pragma once
/// Options that several verbs have.
#include <CLI/CLI.hpp>

#include <dsv4/gen/sampling.hpp>

#include "commands.hpp"

namespace cli {

/// parent.add_subcommand(name, about).  Only here: making a CLI::App compiles the whole of CLI11.
CLI::App& add_verb(CLI::App& parent, const std::string& name, const std::string& about);

/// --model --numerics --exec --fast --threads
void add_engine(CLI::App& verb, engine_options& o);

/// --threads alone: so many are really started, also on a machine with fewer processors.
void add_threads(CLI::App& verb, int& threads);

/// --temperature --top-k --top-p --min-p --seed, penalties and --logit-bias
void add_sampling(CLI::App& verb, dsv4::sampling& s);

}  // namespace cli
