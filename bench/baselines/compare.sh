#!/usr/bin/env bash
# Compares interlace with llama.cpp on this machine, on the same file with as many threads, round by round.
#
#   compare.sh MODEL.gguf... [--rounds 8] [--threads N] [--avx2] [--quick] [--vllm] [--llama-bench NAME=PROGRAM]...
#              [--cases decode-1-16,...] [--out FOLDER] [--set field=value]...
#
# Builds the release preset and llama.cpp (from PyPI's source archive; minutes, once), then runs compare.py, which prints
# a table and writes OUT/compare.json and OUT/compare.md. --avx2 compares our --ops avx2 with a build of llama.cpp
# without AVX-512. --vllm adds vLLM for CPUs (several gigabytes, once). compare.sh --help tells all flags.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"

flavour=native
arguments=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) exec python3 "$here/compare.py" --help ;;
    --avx2) flavour=avx2; arguments+=(--ops avx2) ;;
    --vllm)
      python="$(bash "$here/fetch_vllm.sh" | tail -n 1)"
      arguments+=(--vllm "$python")
      ;;
    *) arguments+=("$argument") ;;
  esac
done
peer="$(bash "$here/fetch_llama_cpp.sh" "$flavour" | tail -n 1)"
(cd "$root" && cmake --preset release >/dev/null && nice cmake --build --preset release --target interlace -j "${INTERLACE_JOBS:-2}" >/dev/null)
exec python3 "$here/compare.py" --interlace "$root/out/release/bin/interlace" \
  --llama-bench "llama.cpp=$peer/llama-bench" "${arguments[@]}"
