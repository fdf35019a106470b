// SPDX-License-Identifier: MIT
// Runs one planted fault by name, for builds under AddressSanitizer and ThreadSanitizer: what they find ends the program.
//   planted none | read_past_the_end | ...      0: nothing found   1: found by the machine or by the values
#include <cstdio>
#include <cstring>

#include "cuda_host/planted_kernels.hpp"

int main(int argc, char** argv) {
  using namespace dsv4_test;
  for (std::size_t i = 0; argc == 2 && i < std::size(faults); ++i) {
    if (std::strcmp(faults[i].name, argv[1]) != 0) continue;
    const finding f = find_numbered(i);
    std::printf("%s: %s\n", argv[1],
                f.what.empty() ? "nothing found by the machine" : (f.what + ", " + f.schedule).c_str());
    return f.what.empty() ? 0 : 1;
  }
  std::fprintf(stderr, "planted: expected the name of a fault:\n");
  for (const named_fault& f : faults) std::fprintf(stderr, "  %s\n", f.name);
  return 2;
}
