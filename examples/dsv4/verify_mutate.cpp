// SPDX-License-Identifier: MIT
// dsv4 verify --mutate.
#include <unistd.h>
#include <cstdio>
#include <deque>

#include <dsv4/golden/report/report_json.hpp>
#include <dsv4/golden/report/report_text.hpp>
#include <dsv4/io/checkpoint.hpp>

#include "commands.hpp"
#include "golden_weights.hpp"
#include "verify.hpp"

namespace cli {

int run_mutations(const verify_arguments& o) {
  namespace golden = dsv4::golden;
  std::vector<std::filesystem::path> paths{o.golden};
  if (!o.test.empty()) paths.push_back(o.test);
  paths.insert(paths.end(), o.more.begin(), o.more.end());
  std::deque<golden::bundle> bundles;
  std::deque<dsv4::io::checkpoint> checkpoints;
  std::vector<golden::mutation_subject> subjects;
  for (const auto& path : paths) {
    bundles.push_back(golden::bundle::open(path));
    checkpoints.push_back(weights_of(bundles.back(), o.model));
    subjects.push_back({&bundles.back(), &checkpoints.back().weights()});
  }
  golden::mutate_options options;
  options.bugs = o.bugs;
  const bool terminal = ::isatty(STDERR_FILENO) != 0;
  options.progress = [&](const golden::mutation_outcome& m) {
    if (terminal) std::fprintf(stderr, "\r%2d %-30s\x1b[K", m.bug, m.name.c_str());
  };
  const golden::power_matrix p = golden::mutate(subjects, options);
  if (terminal) std::fputs("\r\x1b[K", stderr);
  if (!o.json.empty()) write_report(o.json, golden::report_json(p).dump(1) + "\n");
  if (o.json != "-") std::fputs(golden::report_text(p).c_str(), stdout);
  return p.exit_code();
}

}  // namespace cli
