// SPDX-License-Identifier: MIT
#pragma once
/// dsv4 golden: records and checks golden bundles; and the exit codes that `golden` and `verify` share.
///
///   0 done, all right     1..6  results of a comparison (dsv4 verify)
///   2 structure: a file is there and whole, but is not what it should be
///   4 valid, but not implemented, or not comparable
///  64 usage    66 an input is not there    70 a bug of this program    74 I/O, truncation, wrong hash
/// They are wider than those of the other verbs (main.cpp) because scripts decide by them what to do next.
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "commands.hpp"

namespace CLI {
class App;
}

namespace cli {

/// Ends the program with this code; an empty text says nothing.
struct exit_with : std::runtime_error {
  int code;
  exit_with(int c, const std::string& what) : std::runtime_error(what), code(c) {}
};

inline constexpr int exit_structure = 2, exit_not_comparable = 4, exit_golden_usage = 64, exit_no_input = 66,
                     exit_software = 70, exit_io = 74;

/// f(), its errors as exit_with and the codes above.
void with_golden_codes(const std::function<void()>& f);

/// What `golden make` is asked for.
struct make_options {
  engine_options engine;
  std::vector<std::string> ids{"auto"};
  std::uint64_t seed = 1;
  index_t max_tokens = 4096;
  index_t decode = -1;
  std::string chunks, equal_chunks = "5,1,9,64", equal_rewind = "none";
  std::string sites, decode_sites, name;  ///< decode_sites: of calls after the prompt, as `sites` if empty
  bool mtp = false, zstd = false, small = false, json = false, no_weight_hash = false;
  index_t noise = 0;
  std::filesystem::path out;
};
/// Records a bundle and tells about it on standard output.
void make_bundle(const make_options&);

/// The verb `golden` with make and check; `run` becomes what the arguments ask for.
void add_golden(CLI::App& app, std::function<void()>& run);

}  // namespace cli
