// SPDX-License-Identifier: MIT
// Runs a fuzz target once on every file of the given folders: any compiler can, so every build does.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "../fuzz.hpp"

int main(int count, char** folders) {
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < count; ++i)
    for (const auto& e : std::filesystem::directory_iterator(folders[i])) files.push_back(e.path());
  std::sort(files.begin(), files.end());
  for (const auto& f : files) {
    std::ifstream in(f, std::ios::binary);
    // Exactly as large as the file, so that a sanitizer sees a read behind its end.
    const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
    std::printf("%s: %zu bytes\n", f.c_str(), bytes.size());
    std::fflush(stdout);  // the name of what stops the program
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  }
  std::printf("%zu files\n", files.size());
  return files.empty();  // an empty corpus tests nothing
}
