// SPDX-License-Identifier: MIT
#pragma once
/// What the fuzz targets share.  A target is one file of this folder: it reads bytes as the program would
/// read a file, and either gets a value or one of the library's own errors.  Anything else (another
/// exception, a sanitizer's report, a failed `require`) stops it.
///
///   cmake --preset fuzz && cmake --build --preset fuzz          # clang; one program per target
///   build-fuzz/fuzz/fuzz_manifest -max_total_time=600 -rss_limit_mb=512 -malloc_limit_mb=256 NEW reference_tests/fuzz/corpus/manifest
/// A finding's input, small, joins the corpus: every build replays it (ctest fuzz.TARGET, replay/main.cpp).
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <dsv4/core/error.hpp>

/// libFuzzer's entry point, which a target defines.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace dsv4_fuzz {

/// The file's name in messages.
inline constexpr const char* file = "input";

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Stops the program when what was read contradicts itself.
inline void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

/// f(), which may refuse its input in the ways that the library documents.
template <class F>
void read_or_refuse(F&& f) {
  try {
    f();
  } catch (const dsv4::format_error&) {
  } catch (const dsv4::unsupported&) {
  }
}

/// Where `touch` puts what it read, so that no read is left out.
inline volatile unsigned touched = 0;

/// Reads every byte of memory that a reader promises; a sanitizer sees what is not there.
inline void touch(const std::byte* data, std::size_t size) {
  unsigned sum = 0;
  for (std::size_t i = 0; i < size; ++i) sum += static_cast<unsigned>(data[i]);
  touched = sum;
}

}  // namespace dsv4_fuzz
