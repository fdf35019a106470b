// SPDX-License-Identifier: MIT
#pragma once
/// The verbs of the command line: their options, as main.cpp fills them, and their programs.
#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <dsv4/core/view.hpp>
#include <dsv4/gen/draft_settings.hpp>
#include <dsv4/gen/sampling.hpp>

namespace cli {

using dsv4::index_t;
using dsv4::usize;

/// Of dsv4 chat and dsv4 serve, in tokens; a choice: 8192 tokens of Flash are 62 MB of cache in BF16.
constexpr index_t default_context = 8192;

/// The command line asks for something that cannot be; exit code 2.
struct usage_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Which checkpoint runs, and how.
struct engine_options {
  std::filesystem::path model;
  std::string numerics = "official";  ///< official, float32
  std::string exec = "cpu";           ///< ref, cpu
  bool fast = false;
  int threads = 0;  ///< 0: all of the machine's
};

struct inspect_options {
  std::filesystem::path path;
  std::optional<index_t> context;
  bool json = false, scan = false;
};

struct cost_options {
  std::filesystem::path path;
  std::vector<index_t> contexts;  ///< empty: powers of four up to the model's
  bool json = false;
};

struct forward_options {
  engine_options engine;
  std::string ids;
  std::vector<index_t> chunks;      ///< empty: one call
  std::optional<std::string> taps;  ///< regular expression over site names
  bool mtp = false, json = false;
  std::filesystem::path out;
};

constexpr index_t default_max_new = 256;  // of generate; a choice

struct generate_options {
  engine_options engine;
  std::string ids;                    ///< these, or …
  std::optional<std::string> prompt;  ///< … this text; -: standard input
  std::filesystem::path tokenizer;    ///< empty: the one beside the model
  bool special = false;               ///< special tokens in the prompt are meant
  bool json = false;                  ///< ids and text at the end instead of text as it comes
  std::optional<index_t> max_new;
  dsv4::sampling sampling;
  std::optional<index_t> logprobs;  ///< so many of the likeliest tokens
  dsv4::draft_settings draft;       ///< drafts per call
  bool ignore_eos = false;
  std::vector<std::string> stop;  ///< texts that end the answer, with a prompt
};

struct tokenize_options {
  std::filesystem::path tokenizer, model;  ///< one of them
  std::optional<std::string> text;         ///< else `file`, else standard input
  std::filesystem::path file;
  std::string ids;                  ///< decode these instead
  std::string special = "as-text";  ///< as-text, allowed
  bool lines = false, skip_special = false;
};

void inspect(const inspect_options&);
void cost(const cost_options&);
void forward(const forward_options&);
void generate(const generate_options&);
void tokenize(const tokenize_options&);

}  // namespace cli
