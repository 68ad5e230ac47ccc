#!/usr/bin/env bash
# Puts the C++ sources of xgrammar (Apache-2.0), which cmake/Xgrammar.cmake builds, into the cache folder and prints their
# folder on the last line.   usage: bash deploy/fetch_xgrammar.sh
# They come in the source archive of the PyPI package. A folder that is already there is used as it is.
set -euo pipefail

readonly version="0.2.9"
readonly sha256="87b466bca2475e29bb0323abc62c6c33cbcbcff47e5fb800a3e2099ac9620b90"
readonly cache="${INTERLACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/interlace}"
readonly folder="$cache/xgrammar-$version"

if [ ! -f "$folder/LICENSE" ]; then
  mkdir -p "$cache"
  work="$(mktemp -d "$cache/fetch.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  echo "fetching the sources of xgrammar $version (3 MB) into $cache" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary xgrammar --dest "$work" \
    "xgrammar==$version" >&2
  readonly archive="$work/xgrammar-$version.tar.gz"
  echo "$sha256  $archive" | sha256sum --check --status ||
    { echo "fetch_xgrammar: $archive has another checksum than expected" >&2; exit 1; }
  tar -xzf "$archive" -C "$work" --wildcards \
    "xgrammar-$version/"{LICENSE,NOTICE,include,cpp,3rdparty/picojson,3rdparty/dlpack/include}
  rm -rf "$folder"
  mv "$work/xgrammar-$version" "$folder"
fi
echo "$folder"
