#!/usr/bin/env bash
# From nothing to a verified model: installs what is missing, builds the command line tool, runs the complete
# model on the checkpoint in reference_tests/data and compares every intermediate value with its golden.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

examples/install_dependencies.sh

# 1. Build the one program this needs.
cmake --preset release >/dev/null
cmake --build build --target dsv4_cli

# 2. Run it and verify.
#    PLACE FOR THE LAST PART: build/dsv4 forward on the embedded mini checkpoint, compared with its golden,
#    prints what was checked and how fast.  Until it is written this script fails, so that nothing claims it works.
echo "quickstart: the run on the embedded checkpoint is not written yet" >&2
exit 1
