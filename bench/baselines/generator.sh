#!/usr/bin/env bash
# Is the load generator right? `interlace bench serve` beside GuideLLM: the same server, as many prompts of the same
# lengths, at the same rate, round by round; prints by how much they differ. And how many requests a second it makes.
#
#   generator.sh MODEL.gguf [--rounds 5] [--rate 2] [--requests 60] [--input 256] [--output 64] [--patterns constant,poisson]
#                [--paced TOKENS,FIRST_MS,GAP_MS] [--out FOLDER]
#   generator.sh --speed [RATE]      5,000 requests/s, open loop, against a server that answers at once
#
# --paced asks tests/bench_serve/trivial_server.cc, whose pace is known, in place of Interlace with the model.
# Builds the dev preset and, once, GuideLLM. generator.sh --help tells all flags.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"

case "${1:-}" in -h | --help) exec python3 "$here/generator.py" --help ;; esac
folder="${INTERLACE_PROGRAMS:-}" # where programs lie that are built already
if [ -z "$folder" ]; then
  targets=(interlace interlace-coordinator interlace-worker trivial_server)
  # The preset of the tests, whose server answers at once.
  (cd "$root" && cmake --preset dev >/dev/null && nice cmake --build --preset dev --target "${targets[@]}" -j "${INTERLACE_JOBS:-2}" >/dev/null)
  folder="$root/out/dev/bin"
fi
if [ "${1:-}" = "--speed" ]; then
  "$folder/trivial_server" "${SPEED_PORT:-18999}" &
  server=$!
  trap 'kill "$server"' EXIT
  "$folder/interlace" bench serve --url "http://127.0.0.1:${SPEED_PORT:-18999}" --rate "${2:-5000}" --duration 10s \
    --arrivals constant --input-tokens 8 --output-tokens 4 --keep-going
  exit
fi
exec python3 "$here/generator.py" --programs "$folder" --guidellm "$(bash "$here/fetch_guidellm.sh" | tail -n 1)" "$@"
