#!/usr/bin/env bash
# The cuda backend on a machine with a GPU: every op against the reference, SmolLM2 against the CPU, timings as a table.
# Where there is no GPU it says "skipped: why" and exits 0. Takes a few minutes, at most ten.
#   bash tests/gpu.sh                   builds (preset dev) and runs
#   bash tests/gpu.sh --bin FOLDER      runs FOLDER/bin/gpu_check, builds nothing
#   bash tests/gpu.sh --pack FOLDER     gathers what --bin FOLDER needs on another machine: the program, its libraries, the
#                                       model in parts of 40 MiB
# Run it in the repository, which holds the reference texts. CUDA's libraries are never packed: the machine has them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=out/dev
build=yes
pack=""
while [ $# -gt 0 ]; do
  case "$1" in
    --bin) bin=${2:?--bin takes a folder}; build=no; shift 2 ;;
    --pack) pack=${2:?--pack takes a folder}; shift 2 ;;
    *) sed -n '2,9p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done

has_gpu() { [ -e /dev/nvidia0 ] || [ -e /dev/nvidiactl ] || { command -v nvidia-smi && nvidia-smi -L; }; } >/dev/null 2>&1
model_in_cache() { echo "${INTERLACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/interlace}/SmolLM2-135M-Instruct.Q4_1.gguf"; }

if [ "$build" = yes ] && { [ -n "$pack" ] || has_gpu; }; then
  cmake --preset dev >/dev/null
  cmake --build --preset dev --target gpu_check
fi

if [ -n "$pack" ]; then
  mkdir -p "$pack/bin" "$pack/lib"
  cp "$bin/bin/gpu_check" "$pack/bin/"
  strip --strip-debug "$pack/bin/gpu_check"
  # All but the C library's own: those belong to the machine.
  ldd "$bin/bin/gpu_check" | awk '$3 ~ /^\// {print $3}' |
    grep -vE '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so' | xargs -I{} cp -L {} "$pack/lib/"
  if [ -e "$(model_in_cache)" ]; then
    mkdir -p "$pack/model"
    rm -f "$pack"/model/part-*
    split -b 40M -d "$(model_in_cache)" "$pack/model/part-"
  fi
  du -sh "$pack"
  exit 0
fi

if ! has_gpu; then
  echo "skipped: no GPU on this machine (no /dev/nvidia0, no nvidia-smi)"
  exit 0
fi
if [ ! -x "$bin/bin/gpu_check" ]; then
  echo "$bin/bin/gpu_check is missing; run without --bin to build it" >&2
  exit 1
fi

# Libraries that were packed come first, the machine's CUDA last.
path="$PWD/$bin/lib"
case "$bin" in /*) path="$bin/lib" ;; esac
export LD_LIBRARY_PATH="$path:${LD_LIBRARY_PATH:-}:/usr/local/nvidia/lib64:/usr/local/cuda/lib64"
if ! ldconfig -p | grep -q libcublasLt.so.13 && [ ! -e /usr/local/cuda/lib64/libcublasLt.so.13 ]; then
  found=$(find /usr /opt -name libcublasLt.so.13 2>/dev/null | head -n 1 || true)
  if [ -n "$found" ]; then export LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$(dirname "$found")"; fi
fi

model=$(model_in_cache)
if compgen -G "$bin/model/part-*" >/dev/null; then
  model=$(mktemp)
  trap 'rm -f "$model"' EXIT
  cat "$bin"/model/part-* >"$model"
fi
arguments=()
if [ -e "$model" ]; then
  arguments=(--model "$model")
else
  echo "the model is not in $model: bash deploy/fetch_model.sh fetches it; ops alone are checked"
fi
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>/dev/null || true
INTERLACE_EXPECT_GPU=1 timeout 600 "$bin/bin/gpu_check" "${arguments[@]}"
