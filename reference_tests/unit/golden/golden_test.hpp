// SPDX-License-Identifier: MIT
#pragma once
/// What the tests of golden/ share: a folder that goes away, a small recorded bundle, and its manifest.
#include <fstream>
#include <sstream>
#include <string>

#include <unistd.h>

#include "catch.hpp"
#include "dsv4/golden/bundle/check.hpp"
#include "dsv4/golden/make/graft.hpp"
#include "dsv4/golden/make/ladder.hpp"
#include "dsv4/golden/make/record.hpp"
#include "random_model.hpp"

namespace dsv4_test {

namespace fs = std::filesystem;

/// A new folder, removed with its contents.
struct scratch_folder {
  fs::path path;
  scratch_folder() {
    std::string name = (fs::temp_directory_path() / "dsv4-golden-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~scratch_folder() {
    std::error_code none;
    fs::remove_all(path, none);
  }
  fs::path operator/(const std::string& name) const { return path / name; }
};

inline std::string read_text(const fs::path& p) {
  std::ostringstream text;
  text << std::ifstream(p, std::ios::binary).rdbuf();
  return text.str();
}
inline void write_text(const fs::path& p, const std::string& text) {
  std::ofstream(p, std::ios::binary) << text;
}

inline golden::manifest about_of(const config& c, bool official_policy = true) {
  golden::manifest m;
  m.name = "test";
  m.created_by = {{"program", "unit test"}};
  m.oracle = {{"kind", "dsv4"}};
  m.numerics = golden::numerics_json(official_policy, "f64");
  m.model = c;
  return m;
}

/// One random model, recorded.
template <numerics_policy P = official, execution E = exec::ref>
fs::path record_random(const random_model& m, const fs::path& to, golden::run_plan plan = {},
                       golden::writer_options options = {}, golden::record_options what = {}) {
  if (plan.ids.empty()) plan = {{random_ids(40, m.c.vocab_size, 5)}, 6, {}, true};
  golden::bundle_writer w(to, about_of(m.c, std::is_same_v<P, official>), options);
  golden::record<P, E>(m.c, m.weights, plan, w, what);
  w.finish();
  return to;
}

/// The bundle's ids, one list per sequence.
inline std::vector<std::vector<std::int32_t>> ids_of(const golden::bundle& b) {
  std::vector<std::vector<std::int32_t>> ids;
  for (index_t s = 0; s < b.sequences(); ++s) ids.push_back(b.ids(s));
  return ids;
}

}  // namespace dsv4_test
