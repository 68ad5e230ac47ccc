#!/usr/bin/env bash
# Builds llama.cpp from the source archive of the PyPI package llama-cpp-python, which carries it, and prints the folder
# of the programs on the last line. What is built already is used as it is.
#
#   fetch_llama_cpp.sh native      with all instructions of this CPU (the default)
#   fetch_llama_cpp.sh avx2        with AVX2, FMA and F16C alone
#
# Programs: llama-bench, llama-batched-bench, llama-perplexity, llama-server. INTERLACE_JOBS limits the compiler (2).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/cache.sh"

readonly package="llama-cpp-python==0.3.36"
readonly flavour="${1:-native}"
readonly targets=(llama-bench llama-batched-bench llama-perplexity llama-server)
case "$flavour" in
  native) flags=(-DGGML_NATIVE=ON) ;;
  avx2)
    flags=(-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON
      -DGGML_AVX_VNNI=OFF -DGGML_AVX512=OFF -DGGML_AVX512_VBMI=OFF -DGGML_AVX512_VNNI=OFF -DGGML_AVX512_BF16=OFF)
    ;;
  *) die "unknown flavour '$flavour'; known: native, avx2" ;;
esac

readonly home="$peers/llama.cpp"
readonly build="$home/$flavour"
mkdir -p "$home"
exec 9>"$home/lock"
flock 9
built() {
  local target
  for target in "${targets[@]}"; do [ -x "$build/bin/$target" ] || return 1; done
  [ -f "$build/.whole" ]
}
if ! built; then
  fetch_package "$home/archive" --no-binary llama-cpp-python "$package"
  if [ ! -f "$home/source/.whole" ]; then
    rm -rf "$home/source"
    mkdir -p "$home/source"
    tar -xzf "$home"/archive/llama_cpp_python-*.tar.gz -C "$home/source" --strip-components=1
    touch "$home/source/.whole"
  fi
  say "building llama.cpp ($flavour) in $build"
  # Shared libraries: the Python bindings of the same archive load them too (quality.sh).
  nice cmake -S "$home/source/vendor/llama.cpp" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_WEBUI=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_OPENSSL=OFF "${flags[@]}" >"$build.log" 2>&1 || { tail -n 20 "$build.log" >&2; die "configuring failed"; }
  NINJA_STATUS="[%f/%t] " nice ninja -C "$build" -j "$jobs" "${targets[@]}" 2>&1 | tee -a "$build.log" |
    awk '/^\[[0-9]+\/[0-9]+\]/ { if (++n % 20 == 0) print $1; next } /error/ { print }' >&2 ||
    die "the build failed; see $build.log"
  touch "$build/.whole"
fi
echo "$build/bin"
