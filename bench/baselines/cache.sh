# Sourced by the scripts of this folder: where peers live, and how their packages are fetched.
# Nothing here is committed, and nothing is fetched twice.
readonly peers="${INTERLACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/interlace}/peers"
readonly jobs="${INTERLACE_JOBS:-2}"

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

# fetch_package FOLDER PIP-ARGUMENTS...: into FOLDER, unless a fetch has finished there before.
fetch_package() {
  local folder="$1"
  shift
  [ -f "$folder/.whole" ] && return
  rm -rf "$folder"
  mkdir -p "$folder"
  say "fetching $* into $folder"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" "$@" >&2
  touch "$folder/.whole"
}

# make_venv FOLDER PIP-ARGUMENTS...: a virtual environment with those packages, unless it is there.
make_venv() {
  local folder="$1"
  shift
  [ -f "$folder/.whole" ] && return
  rm -rf "$folder"
  say "making $folder (this can take minutes)"
  python3 -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2
  touch "$folder/.whole"
}
