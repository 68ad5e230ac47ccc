#!/usr/bin/env bash
# Serving beside other engines: the same load, by `interlace bench serve`, on Interlace, llama.cpp's server and vLLM on
# CPU, on the same cores, round by round.
#
#   serve.sh MODEL.gguf [--llama] [--vllm] [--load fixed,chat,prefix] [--rates 1,2,4,8] [--duration 30] [--rounds 3]
#            [--find-capacity] [--llama-slots 16,4] [--sharegpt FILE] [--threads N] [--out FOLDER] [--set field=value]...
#
# Builds the release preset and, once, the peers (llama.cpp from PyPI's source archive: minutes; vLLM: several
# gigabytes); then runs serve.py, which prints a table and writes OUT/serve.json, OUT/serve.md, a page for each load and
# a comparison with each peer. serve.sh --help tells all flags.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"

arguments=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) exec python3 "$here/serve.py" --help ;;
    --llama) arguments+=(--llama-server "$(bash "$here/fetch_llama_cpp.sh" native | tail -n 1)/llama-server") ;;
    --vllm) arguments+=(--vllm-python "$(bash "$here/fetch_vllm.sh" | tail -n 1)") ;;
    *) arguments+=("$argument") ;;
  esac
done
program="${INTERLACE_PROGRAM:-}" # one that is built already
if [ -z "$program" ]; then
  targets=(interlace interlace-coordinator interlace-worker)
  (cd "$root" && cmake --preset release >/dev/null && nice cmake --build --preset release --target "${targets[@]}" -j "${INTERLACE_JOBS:-2}" >/dev/null)
  program="$root/out/release/bin/interlace"
fi
exec python3 "$here/serve.py" --interlace "$program" "${arguments[@]}"
