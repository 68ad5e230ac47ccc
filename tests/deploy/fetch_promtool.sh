#!/usr/bin/env bash
# Puts Prometheus's promtool into out/prometheus, out of Debian's package: nothing is installed and no service is started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly folder="out/prometheus"
[ ! -x "$folder/promtool" ] || exit 0
rm -rf "$folder" && mkdir -p "$folder"
download() { (cd "$folder" && apt-get download -qq prometheus 2>/dev/null); }
download || { apt-get update -qq; download; }
dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$folder" --strip-components=3 ./usr/bin/promtool
rm "$folder"/prometheus_*.deb
"$folder/promtool" --version | head -n 1
