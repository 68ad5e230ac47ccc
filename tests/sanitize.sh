#!/usr/bin/env bash
# The unit tests under AddressSanitizer and ThreadSanitizer. For the night: a first build takes tens of minutes on two
# cores, so tests/run.sh leaves it out. The first run of tsan builds abseil, too, from the source package of Debian.
# Each test is bounded; exits non-zero if anything failed.
#   bash tests/sanitize.sh                          both
#   bash tests/sanitize.sh tsan                     one of them
#   bash tests/sanitize.sh asan common_test ...     only these tests
#   JOBS=1 bash tests/sanitize.sh                   compilers at once (all cores by default)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What reads bytes of others, and what keeps memory of its own.
asan=(common_test checkpoint_gguf_test checkpoint_peft_adapter_test text_test model_test model_archs_test modular_test
      kernels_thread_team_test kernels_linear_test kernels_moe_test kernels_agreement_test kernels_exact_rows_test
      kernels_kv_append_test kernels_sample_test kernels_dequantise_test kernels_backend_test
      kvstore_plan_test kvstore_test kvstore_stack_test kvstore_tier_test kvstore_wire_test plan_codec_test transport_test
      worker_pager_test worker_sampler_test worker_rank_test worker_intake_test coordinator_scheduler_test coordinator_case_test
      coordinator_core_test coordinator_snapshot_test coordinator_cluster_test coordinator_policy_test
      router_test skip_index_test response_cache_test kv_events_test election_test client_test constraint_test cluster_security_test
      worker_masks_test worker_device_test worker_speculation_test worker_model_drafter_test worker_lora_test worker_streams_test
      worker_sequence_test worker_bounded_test worker_bounded_streams_test coordinator_bounded_test
      front_text_test front_http_test front_grpc_test load_client_test load_runner_test)
# What the compute team enters, and the rooms whose threads meet at an absl::Mutex. The system's abseil is not built with
# the sanitizer, to which its mutexes order nothing: whatever they guard would be reported as a race. So the same version is
# built here with it (tsan_abseil) and stands before the system's.
tsan=(kernels_thread_team_test kernels_exact_rows_test kernels_linear_test kernels_attention_test kernels_sample_test
      kernels_moe_test kernels_backend_test model_exact_test
      common_test kvstore_test kvstore_stack_test kvstore_tier_test coordinator_core_test transport_test
      router_test response_cache_test kv_events_test election_test worker_streams_test worker_speculation_test
      worker_sequence_test)
seconds=900  # of a test: sanitizers slow them down by up to twenty times

presets=(asan tsan)
if [ $# -gt 0 ]; then
  case "$1" in
    asan | tsan) presets=("$1"); shift ;;
    *) sed -n '2,9p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
fi
named=("$@")

# The first report ends a test. Leaks count; ODR checks do not, since libraries of the system are not instrumented.
export ASAN_OPTIONS="detect_leaks=1:halt_on_error=1:detect_odr_violation=0:strict_string_checks=1"
export TSAN_OPTIONS="halt_on_error=1:suppressions=$PWD/tests/tsan.supp"

# Debian's abseil, built with ThreadSanitizer into out/tsan-abseil once for each version; prints the folders of its libraries.
tsan_abseil() {
  local out="$PWD/out/tsan-abseil" version
  version="$(dpkg-query -W -f '${Version}' libabsl-dev)"
  if [ "$(cat "$out/version" 2>/dev/null)" != "$version" ]; then
    rm -rf "$out"
    mkdir -p "$out/lists/partial"
    echo "deb-src http://deb.debian.org/debian bookworm main" >"$out/src.list"
    local apt=(-qq -o "Dir::Etc::sourcelist=$out/src.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$out/lists")
    (cd "$out" && apt-get "${apt[@]}" update && apt-get "${apt[@]}" source --download-only "abseil=$version" &&
      dpkg-source -x abseil_*.dsc source) >&2
    # The standard of Debian's own build: another one would change the types in its headers.
    cmake -S "$out/source" -B "$out/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_STANDARD=14 \
      -DBUILD_SHARED_LIBS=ON -DABSL_PROPAGATE_CXX_STD=ON -DCMAKE_CXX_FLAGS="-fsanitize=thread -O1 -fno-omit-frame-pointer" \
      -DCMAKE_SHARED_LINKER_FLAGS=-fsanitize=thread >/dev/null
    nice -n 10 cmake --build "$out/build" -j "${JOBS:-$(nproc)}" | tail -n 1 >&2
    echo "$version" >"$out/version"
  fi
  find "$out/build" -name 'libabsl_*.so.*' -printf '%h\n' | sort -u | paste -sd:
}

failed=()
for preset in "${presets[@]}"; do
  declare -n list=$preset
  if [ ${#named[@]} -gt 0 ]; then tests=("${named[@]}"); else tests=("${list[@]}"); fi
  printf '\n== %s: build\n' "$preset"
  cmake --preset "$preset" >/dev/null
  nice -n 10 cmake --build --preset "$preset" -j "${JOBS:-$(nproc)}" --target "${tests[@]}" >"out/$preset/build.log" 2>&1 ||
    { grep -E -A 8 '^FAILED|error: ' "out/$preset/build.log" | cut -c1-400 | head -n 40; exit 1; }
  libraries=""
  if [ "$preset" = tsan ]; then libraries="$(tsan_abseil)"; fi
  for test in "${tests[@]}"; do
    log="out/$preset/$test.log"
    code=0
    LD_LIBRARY_PATH="$libraries" nice -n 10 timeout "$seconds" "out/$preset/tests/$test" >"$log" 2>&1 || code=$?
    if [ $code -eq 0 ]; then
      echo "$preset $test: $(grep -E '^\[  PASSED' "$log" | tail -n 1)"
    else
      failed+=("$preset/$test")
      echo "$preset $test: exit $code"
      grep -E -A 12 'ERROR: |WARNING: ThreadSanitizer|^\[  FAILED' "$log" | head -n 40 || tail -n 20 "$log"
    fi
  done
done
if [ ${#failed[@]} -gt 0 ]; then
  printf '\nsanitize: %d failed: %s\n' "${#failed[@]}" "${failed[*]}"
  exit 1
fi
printf '\nsanitize: all passed\n'
