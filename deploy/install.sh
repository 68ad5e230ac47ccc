#!/usr/bin/env bash
# Installs what deploy/packages.txt names and is missing, by name from the system's package registry, and fetches the
# sources of xgrammar, which has no package there.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

missing=()
while read -r package; do
  state="$(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null || true)"
  [[ "$state" == "install ok installed" ]] || missing+=("$package")
done < <(grep -v '^#' "$here/packages.txt")
if [ ${#missing[@]} -eq 0 ]; then
  bash "$here/fetch_xgrammar.sh" >/dev/null
  exit 0
fi

echo "installing ${#missing[@]} packages: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install: run as root, or install sudo, to install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
bash "$here/fetch_xgrammar.sh" >/dev/null
