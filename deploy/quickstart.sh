#!/usr/bin/env bash
# From a fresh clone to a cluster that answers: installs, builds, fetches SmolLM2-135M-Instruct, starts coordinator, two
# pipeline ranks and a kvstore with half the layers' KV outside the device arena, asks a question, streams the answer,
# shows where each layer's KV lived, then stays up until Ctrl-C. With --once it stops after the answer.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

once=false
question="Why is the sky blue? Answer in three sentences."
http=8000 grpc=50051
usage="usage: bash deploy/quickstart.sh [--once] [--question TEXT] [--port HTTP] [--grpc-port GRPC]   (port 0: a free one)"
while [ $# -gt 0 ]; do
  case "$1" in
    --once) once=true; http=0; grpc=0 ;;
    --question) question="${2:?$usage}"; shift ;;
    --port) http="${2:?$usage}"; shift ;;
    --grpc-port) grpc="${2:?$usage}"; shift ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
  shift
done

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
[ -t 1 ] || step() { printf '\n== %s\n' "$*"; }

step "packages"
bash deploy/install.sh
step "build (first time: some minutes; later: what changed)"
cmake --preset release >/dev/null
cmake --build --preset release --target interlace interlace-coordinator interlace-worker interlace-kvstore
step "model"
model="$(bash deploy/fetch_model.sh | tail -n 1)"
echo "$model"

step "cluster: coordinator, 2 pipeline ranks, kvstore; 15 of 30 layers kept on the device, the others in host memory, a copy of all in the kvstore"
state="$root/out/quickstart"
bin="$root/out/release/bin"
rm -rf "$state" && mkdir -p "$state"
"$bin/interlace" serve "$model" --pp 2 --keep-layers 15 --device-kv 32MiB --host-kv 64MiB --kvstore \
  --set kvstore.rocksdb_dir="$state/rocksdb" --port "$http" --grpc-port "$grpc" --state "$state" &
server=$!
trap 'kill -INT $server 2>/dev/null; wait $server 2>/dev/null' EXIT
trap 'exit 130' INT TERM

# Ready when the health door says so.
ready=false
for _ in $(seq 600); do
  kill -0 "$server" 2>/dev/null || { wait "$server"; exit 1; }
  address="$(sed -n 's/^http=//p' "$state/coordinator.ready" 2>/dev/null || true)"
  if [ -n "$address" ] && python3 - "$address" <<'PY'
import sys, urllib.request
try:
    urllib.request.urlopen(f"http://{sys.argv[1]}/health", timeout=2)
except OSError:
    sys.exit(1)
PY
  then ready=true; break; fi
  sleep 0.1
done
$ready || { echo "quickstart: the cluster is not ready after 60 s; see $state/*.log" >&2; exit 1; }
door="$(sed -n 's/^grpc=//p' "$state/coordinator.ready")"

step "question: $question"
"$bin/interlace" chat --address "$door" --prompt "$question" --temperature 0 --max-tokens 128 --request-id quickstart
step "where its KV lived (interlace explain quickstart)"
"$bin/interlace" explain quickstart --address "$door"

if $once; then
  step "done"
  exit 0
fi
step "up: http://$address/v1   (Ctrl-C stops)"
echo "  $bin/interlace chat --address $door"
wait "$server"
