#!/usr/bin/env bash
# What takes longer than a change may wait for: the long versions of what tests/run.sh shows, bounded, with one table at
# the end. Exits non-zero if anything failed.
#   bash tests/nightly.sh                      all parts
#   bash tests/nightly.sh exact kills          only these
#   SEED=7 KILLS=20 bash tests/nightly.sh kills
# Parts and what bounds them:
#   exact     TOKENS (50000) of each model compared with a reference stream, over stages, layers kept, arenas and tiers
#   kills     KILLS (100) processes of a cluster killed or stopped under eight streams
#   hosts     LOSSES (300) kills, stops and partitions of two replicas, a kvstore and two coordinators on hosts of their own, during
#             at least HOST_STREAMS (200) streams that resume; then links that are slow, flap or are cut for a while; needs root
#   tiers     TIER_KILLS (200) deaths each of a RocksDB writer and a kvstore under load; sick and full disks, also of a cluster
#   poison    requests that nobody can serve, and a request that ranks die of
#   lm_eval   the package lm_eval on a task of 200 items, against transformers' loglikelihoods
#   streams   STREAMS (1000) at once with the settings as shipped, then MINUTES (10) of mixed clients: nothing may grow
#   openapi   FUZZ (10000) requests that schemathesis makes of /openapi.json: no 500, and no answer that is not described
#   release   deploy/quickstart.sh: what users build, warnings and all, starts, answers and ends
#   image     the images of deploy/images made with debootstrap: their programs run as the overlay cpu-demo has them
#   sanitize  the unit tests under AddressSanitizer and ThreadSanitizer (tests/sanitize.sh)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly all=(exact kills hosts tiers poison lm_eval streams openapi release image sanitize)
readonly seed="${SEED:-1}" out="out/nightly"
parts=("${@:-${all[@]}}")
for part in "${parts[@]}"; do
  case " ${all[*]} " in
    *" $part "*) ;;
    *) sed -n '2,19p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done
mkdir -p "$out"
python="out/venv/bin/python"
[ -x "$python" ] || { echo "nightly: $python is missing; tests/run.sh makes it, builds and fetches the models" >&2; exit 2; }
export INTERLACE_BUILD="${INTERLACE_BUILD:-out/dev}"

# One row of the table: part, what, figure, ok or FAILED.
row() { printf '%s\t%s\t%s\t%s\n' "$@" >>"$out/$1.tsv"; }

# The last line of a GoogleTest run that says what passed, or the names of what failed.
verdict() { grep -E '^\[  (PASSED|FAILED) ' "$1" | tail -n 1 | sed 's/^\[ *[A-Z]* *\] *//'; }

tiers() {
  : >"$out/tiers.tsv"
  local good=0 test
  export INTERLACE_TIER_KILLS="${TIER_KILLS:-200}"
  for test in kvstore_crash_test "kvstore_remote_tier_test --gtest_filter=StoreProcess.*"; do
    local log="$out/${test%% *}.log" code=0
    # shellcheck disable=SC2086
    timeout 3600 "$INTERLACE_BUILD"/tests/$test >"$log" 2>&1 || code=$?
    grep -E '^(\[ (      OK|  SKIPPED|  FAILED) |figures: )' "$log" || tail -n 20 "$log"
    while IFS=$'\t' read -r what figure; do row tiers "$what" "$figure" ok; done \
      < <(sed -n 's/^figures: \([^:]*\): \(.*\)/\1\t\2/p' "$log")
    if [ $code -eq 0 ]; then row tiers "${test%% *}" "$(verdict "$log")" ok; else row tiers "${test%% *}" "$(verdict "$log")" FAILED; good=1; fi
  done
  "$python" tests/nightly/disks.py || good=1
  cat "$out/disks.tsv" >>"$out/tiers.tsv" || good=1
  return $good
}

hosts() {
  local good=0
  "$python" tests/nightly/host_kills.py --seed "$seed" --losses "${LOSSES:-300}" --streams "${HOST_STREAMS:-200}" || good=1
  "$python" tests/nightly/links.py --seed "$seed" || good=1
  cat "$out/host_kills.tsv" "$out/links.tsv" >"$out/hosts.tsv" || good=1
  return $good
}

# lm_eval brings half a gigabyte of packages: they stay out of the tests' own environment.
lm_eval() {
  local venv="$out/lm_eval"
  [ -x "$venv/bin/lm_eval" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check "lm_eval[api]==0.4.13"; } || return 1
  "$venv/bin/python" tests/nightly/lm_eval_task.py
}

release() {
  if bash deploy/quickstart.sh --once >"$out/release.log" 2>&1; then
    row release "deploy/quickstart.sh --once" "warnings: $(grep -c 'warning:' "$out/release.log" || true)" ok
  else
    tail -n 30 "$out/release.log"
    row release "deploy/quickstart.sh --once" "ended with an error" FAILED
    return 1
  fi
}

sanitize() {
  local code=0
  bash tests/sanitize.sh 2>&1 | tee "$out/sanitize.log" || code=1
  : >"$out/sanitize.tsv"
  grep -E '^(asan|tsan) [a-z]' "$out/sanitize.log" | while IFS= read -r line; do
    case "$line" in
      *PASSED*) row sanitize "${line%%:*}" "${line##*\] }" ok ;;
      *) row sanitize "${line%%:*}" "${line#*: }" FAILED ;;
    esac
  done
  return $code
}

failed=0
for part in "${parts[@]}"; do
  printf '\n== %s\n' "$part"
  rm -f "$out/$part.tsv"
  case "$part" in
    exact) "$python" tests/nightly/exact.py --seed "$seed" --tokens "${TOKENS:-50000}" ;;
    kills) "$python" tests/nightly/kills.py --seed "$seed" --kills "${KILLS:-100}" ;;
    hosts) hosts ;;
    poison) "$python" tests/nightly/poison.py --seed "$seed" ;;
    streams) "$python" tests/nightly/streams.py --seed "$seed" --streams "${STREAMS:-1000}" --minutes "${MINUTES:-10}" ;;
    openapi) "$python" tests/nightly/openapi.py --seed "$seed" --requests "${FUZZ:-10000}" ;;
    tiers) tiers ;;
    lm_eval) lm_eval ;;
    release) release ;;
    image) "$python" tests/nightly/image.py ;;
    sanitize) sanitize ;;
  esac || failed=1
  [ -f "$out/$part.tsv" ] || row "$part" "the part" "ended without a summary" FAILED
done

printf '\n'
for part in "${parts[@]}"; do cat "$out/$part.tsv"; done | awk -F'\t' '{ printf "%-10s %-72s %-7s %s\n", $1, $2, $4, $3 }'
exit $failed
