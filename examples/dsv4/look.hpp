// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 look and dsv4 trace: what a model did with a text, as one page and as JSON lines.
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <dsv4/io/checkpoint.hpp>
#include <dsv4/text/tokenizer.hpp>

#include "commands.hpp"

namespace cli {

void add_look(CLI::App& app, std::function<void()>& run);
void add_trace(CLI::App& app, std::function<void()>& run);

/// What both verbs read.
struct watch_options {
  engine_options engine;
  std::string ids;                    ///< these, or …
  std::optional<std::string> prompt;  ///< … this text; -: standard input
  std::filesystem::path tokenizer;    ///< empty: the one beside the model
  bool special = false;
};
void add_watched(CLI::App& verb, watch_options& o);

/// The tokens of a run, and their texts where there is a tokenizer.
struct watched_text {
  std::vector<std::int32_t> ids;
  std::optional<dsv4::text::tokenizer> tokenizer;
  /// The token's text, what is not UTF-8 of it repaired; "#17" without a tokenizer.
  std::string piece(std::int32_t id) const;
};
watched_text read_watched(const watch_options& o, const dsv4::config& c);

/// x with so many significant digits: what a page or a line shows of a number needs no more.
double shortened(double x, int digits);

}  // namespace cli
