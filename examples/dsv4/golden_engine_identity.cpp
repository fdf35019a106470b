// SPDX-License-Identifier: MIT
#include <dsv4/golden/make/recipe_checkpoint.hpp>

#include "golden_engine.hpp"

namespace cli {

dsv4::golden::weights_identity weights_identity_of(const dsv4::io::checkpoint& model, bool hash) {
  namespace golden = dsv4::golden;
  if (auto recipe = golden::recipe_of(model)) return std::move(*recipe);
  golden::weights_identity w;
  w.kind = "files";
  for (const auto& f : model.files()) {
    auto& into = w.files.emplace_back(
        golden::weight_file{f.path().filename().string(), std::filesystem::file_size(f.path()), {}});
    if (hash) into.sha256 = golden::sha256_of_file(f.path());
  }
  return w;
}

}  // namespace cli
