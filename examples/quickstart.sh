#!/usr/bin/env bash
# From nothing to a verified model: installs what is missing, builds the command line tool, runs the complete
# model on the checkpoint in reference_tests/data and compares every intermediate value with its golden.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=reference_tests/data/official/flash-mini

examples/install_dependencies.sh

# 1. Build the two programs this needs.
cmake --preset release >/dev/null
cmake --build build --target dsv4_cli example_verify_embedded

# 2. What is in the checkpoint.
build/dsv4 inspect $model

# 3. Generate: the prompt's ids, then 16 new ones; tokens per second on stderr.
build/dsv4 generate --model $model --ids 0,17,42,99,256,7,300,11 --max-new 16

# 4. Text: a small model that was trained by this project on the King James Bible (docs/training.md), with drafts by MTP.
build/dsv4 generate --model examples/kjv-mini --prompt 'And it came to pass' --max-new 64 --draft 1
echo "  more:  build/dsv4 generate --model examples/kjv-mini --prompt 'Blessed are' --max-new 200 --temperature 0.8"

# 5. Verify: specification and fast executor against the golden, every intermediate value.
build/examples/verify_embedded
