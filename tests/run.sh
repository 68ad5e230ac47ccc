#!/usr/bin/env bash
# Everything that must hold before a change lands: installs, builds, checks, tests. Incremental; exits non-zero if
# anything failed.   usage: bash tests/run.sh [ctest arguments, e.g. -L unit or -R scheduler]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }

step "packages"
bash deploy/install.sh
step "models"
bash deploy/fetch_model.sh
bash deploy/fetch_model.sh gemma3-270m
step "build (preset dev)"
cmake --preset dev >/dev/null
cmake --build --preset dev
step "python environment of the client tests"
stamp="out/venv/requirements.txt"
if ! cmp -s tests/cluster/requirements.txt "$stamp"; then
  rm -rf out/venv
  python3 -m venv out/venv
  out/venv/bin/pip install --quiet --disable-pip-version-check -r tests/cluster/requirements.txt
  # It wants an older jiter than openai and anthropic do, and works with theirs.
  out/venv/bin/pip install --quiet --disable-pip-version-check --no-deps instructor==1.17.0
  cp tests/cluster/requirements.txt "$stamp"
fi
step "promtool"
bash tests/deploy/fetch_promtool.sh
step "lint"
python3 tests/lint/lint.py
step "tests"
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  echo "a GPU is here: tests labelled gpu run on it"
else
  echo "no GPU on this machine: tests labelled gpu are built and skipped"
fi
if ! command -v chromium >/dev/null; then
  echo "no Chromium on this machine: the test of /ui in a browser is skipped (apt-get install chromium)"
fi
# Tests that need the machine for themselves say so (RUN_SERIAL).
ctest --test-dir out/dev --output-on-failure --timeout 900 --parallel 2 "$@"
