#!/usr/bin/env bash
# The unit tests under AddressSanitizer and ThreadSanitizer. For the night: a first build takes tens of minutes on two
# cores, so tests/run.sh leaves it out. Each test is bounded; exits non-zero if anything failed.
#   bash tests/sanitize.sh                          both
#   bash tests/sanitize.sh tsan                     one of them
#   bash tests/sanitize.sh asan common_test ...     only these tests
#   JOBS=1 bash tests/sanitize.sh                   compilers at once (all cores by default)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What reads bytes of others, and what keeps memory of its own.
asan=(common_test checkpoint_gguf_test text_test model_test model_archs_test modular_test
      kernels_thread_team_test kernels_linear_test kernels_moe_test kernels_agreement_test kernels_exact_rows_test
      kernels_kv_append_test kernels_sample_test kernels_dequantise_test kernels_backend_test
      kvstore_plan_test kvstore_test kvstore_tier_test kvstore_wire_test plan_codec_test transport_test
      worker_window_test worker_sampler_test coordinator_scheduler_test coordinator_core_test coordinator_cluster_test
      front_text_test front_http_test front_grpc_test)
# What the compute team enters. The system's abseil is not instrumented, so to ThreadSanitizer an absl::Mutex orders
# nothing: whatever it guards is reported as a race. Rooms that use it (queues, transfers, transport, doors) can be
# checked only once abseil is built with the sanitizer; a suppression for them would hide true races too.
tsan=(kernels_thread_team_test kernels_exact_rows_test kernels_linear_test kernels_attention_test kernels_sample_test
      kernels_moe_test kernels_backend_test model_exact_test)
seconds=900  # of a test: sanitizers slow them down by up to twenty times

presets=(asan tsan)
if [ $# -gt 0 ]; then
  case "$1" in
    asan | tsan) presets=("$1"); shift ;;
    *) sed -n '2,8p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
fi
named=("$@")

# The first report ends a test. Leaks count; ODR checks do not, since libraries of the system are not instrumented.
export ASAN_OPTIONS="detect_leaks=1:halt_on_error=1:detect_odr_violation=0:strict_string_checks=1"
export TSAN_OPTIONS="halt_on_error=1"

failed=()
for preset in "${presets[@]}"; do
  declare -n list=$preset
  if [ ${#named[@]} -gt 0 ]; then tests=("${named[@]}"); else tests=("${list[@]}"); fi
  printf '\n== %s: build\n' "$preset"
  cmake --preset "$preset" >/dev/null
  nice -n 10 cmake --build --preset "$preset" -j "${JOBS:-$(nproc)}" --target "${tests[@]}" | tail -n 1
  for test in "${tests[@]}"; do
    log="out/$preset/$test.log"
    code=0
    nice -n 10 timeout "$seconds" "out/$preset/tests/$test" >"$log" 2>&1 || code=$?
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
