#!/usr/bin/env python3
"""Rules of the tree that no compiler checks; prints each offence as path:line and exits 1 if there is any.

  seams      core code reaches time, chance, threads, files and sockets only through common/ (docs/contracts.md, seams)
  layering   who may include what (docs/architecture.md); third-party headers stay out of our headers
  size       no hand-written file over 800 lines
  names      words that say nothing are not names of files or types
  pragma     every header has #pragma once
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "deploy/observability"))
import catalogue  # noqa: E402
import make as observability  # noqa: E402

FOLDERS = ["common", "kernels", "checkpoint", "text", "transport", "model", "kvstore", "proto", "constraint", "worker", "coordinator", "client", "cli"]

# What each folder may include, by top folder, and the parts of closed folders that are open (a prefix).
LAYERS = {
    "common": {"common"},
    "kernels": {"common", "kernels"},
    "checkpoint": {"common", "checkpoint"},
    "text": {"common", "checkpoint", "text"},
    "transport": {"common", "transport"},
    "model": {"common", "kernels", "checkpoint", "model"},
    "kvstore": {"common", "kernels", "transport", "kvstore", "proto/kv"},
    "proto": {"common", "proto", "kvstore/layer_set", "kvstore/block_id"},
    "constraint": {"common", "text", "proto/plan/sampling", "constraint"},
    "worker": {"common", "kernels", "model", "kvstore", "proto", "transport", "constraint", "worker"},
    "coordinator": {"common", "proto", "coordinator", "text", "checkpoint", "constraint", "kvstore/layer_set",
                    "kvstore/block_id"},
    "client": {"common", "proto", "client"},
    "cli": set(FOLDERS),
}

# What a main may include besides: it makes what the rest of its folder knows as an interface of common/ alone.
MAINS = {"coordinator/main.cc": {"transport/ucx_transport"}}

# The world, and the files whose purpose is to touch it. Everything else is core.
SEAMS = {
    r"\bstd::(jthread|thread|async)\b|\bpthread_create\b": ["common/thread.", "kernels/cpu/thread_team.cc"],
    r"std::chrono::(steady|system|high_resolution)_clock|\babsl::Now\(": [
        "common/clock.cc", "cli/", "client/client.cc", "coordinator/main.cc", "coordinator/front/"],
    r"\bstd::random_device\b|\bgetrandom\(|\brand\(\)|\bmt19937\b": ["common/entropy.cc"],
    r"\bgetenv\(": ["common/config.cc", "cli/bench_serve_flags.cc", "cli/terminal.cc"],
    r"\bsleep_for\b|\bSleepFor\b|\busleep\(|\bnanosleep\(": [],
    r"\b(socket|bind|listen|accept)\(\s*(AF_|fd)": ["transport/tcp_socket.cc"],
    r"\bstd::(ifstream|ofstream|fstream)\b|\bfopen\(|\bopen\(\w+.*O_RDONLY": [
        "common/config.cc", "common/control_groups.cc", "common/secret_file.cc", "common/state_file.cc", "cli/", "coordinator/main.cc", "kvstore/remote/main.cc",
        "transport/", "checkpoint/file_mapping", "text/tokenizer_files"],
}

THIRD_PARTY = re.compile(r'#include [<"](ucp|uct|ucs|rocksdb|boost|nlohmann|CLI|spdlog|prometheus|pcre2|xxhash|sodium|openssl|zstd|immintrin|xgrammar|zmq)')
GRPC = re.compile(r'#include [<"](grpc|google/protobuf)')
GRPC_HEADERS = ("_service.h", "rank_stream.h", "kv_event_stream.h", "grpc_status.h", "attach_stream.h")
OWN_LIBRARY = ("coordinator/front/door_stream.h", "coordinator/front/http_context.h", "coordinator/front/http_session.h", "coordinator/front/http_writer.h",
               "coordinator/front/json_fields.h")
BANNED = re.compile(r"(?i)(manager|util|helper|handler|impl|misc)")


def metrics_page() -> str:
    """docs/metrics.md out of the catalogue in common/metrics.h."""
    lines = ["# Metrics", "", "Generated from `common/metrics.h` by `python3 tests/lint/lint.py --write-metrics`.",
             "`/metrics` serves them on the HTTP port; every series has the label `model_name`.", "",
             "| series | kind | labels | meaning |", "|---|---|---|---|"]
    lines += [f"| `{m.name}` | {m.kind} | {','.join(m.labels) or '-'} | {m.meaning} |" for m in catalogue.read().values()]
    return "\n".join(lines) + "\n"


def files():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / f for f in listed if f and (ROOT / f).is_file()]


def main() -> int:
    offences = []

    def report(path, line, text):
        offences.append(f"{path.relative_to(ROOT)}:{line}: {text}")

    if "--write-metrics" in sys.argv:
        (ROOT / "docs/metrics.md").write_text(metrics_page())
        observability.write()
    if (ROOT / "docs/metrics.md").read_text() != metrics_page():
        offences.append("docs/metrics.md:1: differs from common/metrics.h; run python3 tests/lint/lint.py --write-metrics")

    offences += [f"deploy/observability/{name}:1: is not what its make.py writes; run it" for name in observability.stale()]

    checked = 0
    for path in files():
        name = str(path.relative_to(ROOT))
        top = name.split("/")[0]
        if path.stat().st_size > 1 << 20:
            report(path, 1, "size: a file above 1 MiB")
        if path.suffix not in {".h", ".cc", ".cu", ".cuh"}:
            continue
        checked += 1
        lines = path.read_text(errors="replace").split("\n")
        if len(lines) > 800:
            report(path, len(lines), f"size: {len(lines)} lines, at most 800")
        if path.suffix == ".h" and "#pragma once" not in lines:
            report(path, 1, "pragma: no #pragma once")
        if BANNED.search(path.stem):
            report(path, 1, f"names: '{path.stem}' says nothing; ask what it is")
        if top not in FOLDERS:
            continue
        for number, line in enumerate(lines, 1):
            code = line.split("//")[0]
            for pattern, allowed in SEAMS.items():
                if re.search(pattern, code) and not any(name.startswith(a) for a in allowed):
                    report(path, number, f"seams: {code.strip()[:80]}")
            included = re.match(r'#include "([a-z]+)/([^"]+)"', line)
            if included and included[1] in FOLDERS:
                target = f"{included[1]}/{included[2]}"
                if not any(target.startswith(a) if "/" in a else included[1] == a
                           for a in LAYERS[top] | MAINS.get(name, set())):
                    report(path, number, f"layering: {top}/ must not include {target}")
            if path.suffix == ".h" and THIRD_PARTY.match(line) and "simd" not in path.name and not name.startswith(OWN_LIBRARY):
                report(path, number, f"layering: a third-party header in a header: {line}")
            if path.suffix == ".h" and GRPC.match(line) and not name.endswith(GRPC_HEADERS):
                report(path, number, f"layering: gRPC belongs in *_service.h and .cc files: {line}")
            if re.match(r"\s*(class|struct) \w*(Manager|Util|Helper|Handler|Impl)\b", line):
                report(path, number, f"names: {line.strip()}")
    print("\n".join(offences) if offences else f"lint: {checked} sources, no offences")
    if checked < 50:
        print(f"lint: only {checked} sources found; the check looked in the wrong place")
        return 1
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
