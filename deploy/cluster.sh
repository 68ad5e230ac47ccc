#!/usr/bin/env bash
# Starts, stops and shows a cluster on plain hosts over ssh.
#   bash deploy/cluster.sh FILE start     kvstores, coordinators, workers; returns when the coordinators serve
#   bash deploy/cluster.sh FILE stop      coordinators first: they finish what runs and let their ranks go
#   bash deploy/cluster.sh FILE status    a line a process; exits 1 unless all of them run and are ready
#   bash deploy/cluster.sh FILE logs      the last lines of each process's log
# FILE says one thing a line; '#' begins a comment:
#   bin /opt/interlace/bin                folder of the programs, on every host (default: /usr/bin)
#   state /var/tmp/interlace              folder of logs, process ids and ready files, on every host (default)
#   all SETTING=VALUE ...                 settings of every process; interlace config lists them
#   coordinator HOST SETTING=VALUE ...    a process, and settings of its own
#   worker HOST SETTING=VALUE ...
#   kvstore HOST SETTING=VALUE ...
# HOST is what ssh takes: the keys, ports and users of ~/.ssh/config count. Programs, model and the secret's file are there
# already. Values hold no spaces. WAIT (120): seconds until a cluster must serve, or a process have ended.
# INTERLACE_SSH (ssh -o BatchMode=yes) is called with a host and a command.
set -euo pipefail

usage() { sed -n '2,17p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2; exit 2; }
fail() { echo "cluster: $*" >&2; exit 1; }

[ $# -eq 2 ] || usage
readonly file="$1" command="$2" wait_for="${WAIT:-120}"
read -r -a ssh <<<"${INTERLACE_SSH:-ssh -o BatchMode=yes}"
[ -r "$file" ] || fail "$file cannot be read"

bin=/usr/bin state=/var/tmp/interlace
all=() names=() roles=() hosts=() settings=()

# A word that ends up in a command of the other host's shell.
check_word() { [[ "$1" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || fail "$file:$number: '$1' has characters that are not allowed here"; }

read_file() {
  local number=0 line words word
  declare -A count=()
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    read -r -a words <<<"${line%%#*}" || true
    [ ${#words[@]} -gt 0 ] || continue
    for word in "${words[@]}"; do check_word "$word"; done
    case "${words[0]}" in
      bin) bin="${words[1]:?$file:$number: bin FOLDER}" ;;
      state) state="${words[1]:?$file:$number: state FOLDER}" ;;
      all) all+=("${words[@]:1}") ;;
      coordinator | worker | kvstore)
        [ ${#words[@]} -ge 2 ] || fail "$file:$number: ${words[0]} HOST SETTING=VALUE ..."
        names+=("${words[0]}-${count[${words[0]}]:-0}")
        count[${words[0]}]=$((${count[${words[0]}]:-0} + 1))
        roles+=("${words[0]}") hosts+=("${words[1]}") settings+=("${words[*]:2}")
        ;;
      *) fail "$file:$number: '${words[0]}' is none of bin, state, all, coordinator, worker, kvstore" ;;
    esac
  done <"$file"
  [ ${#names[@]} -gt 0 ] || fail "$file names no process"
}

# What each host runs: arguments are the verb, the folder, the name, and for start the program and its arguments. A process
# id counts only while that process is of this name, since systems give ids again. No single quote may stand in here.
# shellcheck disable=SC2016
readonly remote='
verb=$1 state=$2 name=$3
shift 3
pid=$(cat "$state/$name.pid" 2>/dev/null)
runs() { [ -n "$pid" ] && tr "\0" " " <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$state/$name.ready"; }
case $verb in
  start)
    if runs; then echo "runs already"; exit 0; fi
    mkdir -p "$state" && rm -f "$state/$name.ready" || exit 1
    [ -x "$1" ] || { echo "there is no program $1"; exit 1; }
    setsid nohup "$@" --ready-file "$state/$name.ready" >"$state/$name.log" 2>&1 </dev/null &
    echo $! >"$state/$name.pid"
    echo started ;;
  stop)
    if ! runs; then rm -f "$state/$name.pid"; echo "does not run"; exit 0; fi
    kill -TERM "$pid"
    n=$(($1 * 5))
    while runs && [ $n -gt 0 ]; do sleep 0.2; n=$((n - 1)); done
    if runs; then echo "still runs after $1 s, process $pid"; exit 1; fi
    rm -f "$state/$name.pid"
    echo stopped ;;
  status)
    if ! runs; then echo down; exit 1; fi
    if [ ! -e "$state/$name.ready" ] || grep -q "^serving=false" "$state/$name.ready"; then echo "not ready"; exit 1; fi
    echo "ready" $(cat "$state/$name.ready") ;;
  logs) tail -n 20 "$state/$name.log" ;;
esac'

# on INDEX VERB [ARGUMENT ...]: what the host of a process says. Words were checked, so quoting them is enough.
on() {
  local at="$1" verb="$2" text word
  shift 2
  text="sh -c '$remote' sh"
  for word in "$verb" "$state" "${names[$at]}" "$@"; do text+=" '$word'"; done
  "${ssh[@]}" "${hosts[$at]}" "$text"
}

# each ROLE VERB [ARGUMENT ...]: of all processes of a role, in their order; false if any of them failed.
each() {
  local role="$1" verb="$2" good=0 at said own
  shift 2
  for at in "${!names[@]}"; do
    [ "${roles[$at]}" = "$role" ] || continue
    local arguments=("$@")
    if [ "$verb" = start ]; then
      arguments=("$bin/interlace-$role")
      read -r -a own <<<"${settings[$at]}" || true
      for setting in "${all[@]}" "${own[@]}"; do arguments+=(--set "$setting"); done
    fi
    said="$(on "$at" "$verb" "${arguments[@]}")" || good=1
    if [ "$verb" = logs ]; then
      printf '== %s on %s\n%s\n' "${names[$at]}" "${hosts[$at]}" "$said"
    else
      printf '%-14s %-24s %s\n' "${names[$at]}" "${hosts[$at]}" "${said:-did not answer}"
    fi
  done
  return $good
}

# Ends early with what is wrong if a process has ended.
await_serving() {
  local left=$((wait_for * 2)) at said serving
  while true; do
    serving=yes
    for at in "${!names[@]}"; do
      if said="$(on "$at" status)"; then continue; fi
      [ "$said" != down ] || { on "$at" logs >&2; fail "${names[$at]} on ${hosts[$at]} has ended; above is the end of its log"; }
      serving=no
    done
    [ $serving = no ] || return 0
    left=$((left - 1))
    [ $left -gt 0 ] || { status || true; fail "not all processes are ready after $wait_for s"; }
    sleep 0.5
  done
}

status() {
  local good=0 role
  for role in coordinator worker kvstore; do each "$role" status || good=1; done
  return $good
}

read_file
case "$command" in
  start)
    for role in kvstore coordinator worker; do each "$role" start || fail "not all of them were started"; done
    await_serving
    status
    ;;
  stop)
    good=0
    for role in coordinator worker kvstore; do each "$role" stop "$wait_for" || good=1; done
    exit $good
    ;;
  status) status ;;
  logs) for role in coordinator worker kvstore; do each "$role" logs || true; done ;;
  *) usage ;;
esac
