#!/usr/bin/env bash
# Prints the figures of the README for this machine: builds the release preset, fetches the model, measures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash deploy/install.sh
model="$(bash deploy/fetch_model.sh | tail -n 1)"
cmake --preset release >/dev/null
cmake --build --preset release --target figures >/dev/null
grep -m1 'model name' /proc/cpuinfo | sed 's/.*: /cpu: /'
out/release/bin/figures "$model" "$@"
