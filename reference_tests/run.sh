#!/usr/bin/env bash
# Everything: installs what is missing, builds all, runs the quickstart, then every test.
#   reference_tests/run.sh               release build, in build/
#   reference_tests/run.sh --sanitize    AddressSanitizer + UndefinedBehaviorSanitizer, in build-asan/ (tests only)
# Further arguments go to ctest:  reference_tests/run.sh -R unit
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=release build=build
if [[ ${1:-} == --sanitize ]]; then
  preset=asan build=build-asan
  shift
fi
jobs=$(nproc)

examples/install_dependencies.sh
cmake --preset "$preset"
cmake --build "$build" -j "$jobs"
if [[ $preset == release ]]; then
  examples/quickstart.sh
fi

# Fail on the first error of a sanitizer; leaks count.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:strict_string_checks=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}"
ctest --test-dir "$build" -j "$jobs" --output-on-failure --no-tests=error "$@"

# What the build costs: objects, and the slowest of them.
python3 bench/build_time.py --log "$build" --rows 5
