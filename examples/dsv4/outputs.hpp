// SPDX-License-Identifier: MIT
#pragma once
/// What a run of the program leaves behind: what it wrote to its streams, the files that it names before it begins,
/// and how it ends when it is told to, or when a file is cut short while it is read.
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "commands.hpp"

namespace cli {

/// The three standard streams are open, so that no file of the program is taken for one of them; signals that end the
/// program take its unfinished files along; and a file that is cut short while it is mapped ends it with
/// `code_of_bad_file` and the file's name instead of a bare SIGBUS.  Once, at the very beginning.
void begin_program(int code_of_bad_file);

/// The exit code: that of the run, or `failed` if it was 0 and not everything that was written has arrived.  Says what
/// was lost, and names an input that was changed while it was read.  Once, at the very end, however the run ended.
int end_program(int code, int failed, int code_of_bad_file);

/// A text to standard output; should it not arrive, the reason is known at the end.
void print_text(const std::string& text);
/// Everything that was written to standard output so far has arrived: long runs ask, and stop if not.
bool output_arrives();
/// @throws dsv4::error unless output_arrives()
void check_output_arrives();

/// `to`, which option names, can become the output of a run that reads `inputs` (files, or folders with files).
/// Asked before the work, not after it.
/// @throws usage_error there is no such folder, it is a folder, or it is one of the inputs
void check_output_file(const std::string& option, const std::filesystem::path& to,
                       const std::vector<std::filesystem::path>& inputs);

}  // namespace cli
