#!/usr/bin/env bash
# How close interlace and llama.cpp come to float32 on the same weights.
#
#   quality.sh MODEL.gguf [--text FILE] [--ops NAME]... [--python PYTHON] [--out FOLDER] [--chats 24] [--steps 96]
#
# The reference is transformers in float32 on the dequantised file, in a virtual environment that is made once (several
# gigabytes; --python uses one that has torch, transformers, accelerate, gguf, numpy, diskcache, jinja2 and
# typing_extensions instead). llama.cpp is the build of fetch_llama_cpp.sh, driven by the bindings of the same archive.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
source "$here/cache.sh"

python=""
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --python) python="$2"; shift 2 ;;
    *) arguments+=("$1"); shift ;;
  esac
done
build="$(bash "$here/fetch_llama_cpp.sh" native | tail -n 1)"
if [ -z "$python" ]; then
  make_venv "$peers/quality" torch transformers accelerate gguf numpy diskcache jinja2 typing_extensions
  python="$peers/quality/bin/python"
fi
# The bindings look for libraries in their own folder.
bindings="$peers/llama.cpp/bindings"
rm -rf "$bindings"
mkdir -p "$bindings"
cp -r "$peers/llama.cpp/source/llama_cpp" "$bindings/llama_cpp"
ln -sfn "$build" "$bindings/llama_cpp/lib"
(cd "$root" && cmake --preset release >/dev/null && nice cmake --build --preset release --target score -j "$jobs" >/dev/null)
PYTHONPATH="$bindings" exec "$python" "$here/quality.py" --score "$root/out/release/bin/score" \
  --chats-file "$root/tests/golden/tokenizer/chats.json" "${arguments[@]}"
