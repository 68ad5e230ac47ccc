#!/usr/bin/env bash
# Installs the load generator GuideLLM (PyPI: guidellm) into a virtual environment of its own and prints its program on
# the last line. It brings torch along: several gigabytes; what is installed already is used as it is.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/cache.sh"

readonly home="$peers/guidellm"
mkdir -p "$home"
exec 9>"$home/lock"
flock 9
make_venv "$home/venv" "guidellm==0.8.1"
echo "$home/venv/bin/guidellm"
