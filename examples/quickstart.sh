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

# 4. Text: the tokenizer is a trained one, the model beside it has random weights, and says so.
if [[ ! -e build/tiny-chat/tokenizer.json ]]; then
  rm -rf build/tiny-chat
  build/dsv4 golden weights reference_tests/data/bundles/tiny.v4gold --tokenizer reference_tests/data/text/tokenizer.json --out build/tiny-chat
fi
build/dsv4 generate --model build/tiny-chat --prompt 'In the beginning' --max-new 32 --temperature 1
echo "  a conversation with it:  build/dsv4 chat --model build/tiny-chat --max-new 60"

# 5. Verify: specification and fast executor against the golden, every intermediate value.
build/examples/verify_embedded
