"""Requests that are refused, or that bring a rank down, end alone: the streams beside them are right all the time.

First everything that a client can send and nobody can serve; no process may die of it. Then a request during whose
prompt a rank dies each time that it is computed: it must be ended and named, and nobody else.
"""
import argparse
import json
import os
import random
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import grpc

from soak import PATIENT, Ask, Cluster, Reader, Summary, corpus, sampling, say, slices, undisturbed, wait_until

from interlace_client import Client

MODEL = "smollm2-135m"
COUNTS = ["max_tokens", "max_completion_tokens", "min_tokens", "n", "seed", "top_k", "logprobs", "top_logprobs", "best_of",
          "priority", "truncate_prompt_tokens", "prompt_logprobs"]
MEASURES = ["temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
            "length_penalty"]
NUMBERS = ["9223372036854775808", "9223372036854775807", "-9223372036854775808", "18446744073709551616", "4294967296",
           "2147483648", "-1", "1e308", "1e999", "-0.0", "0.5", "NaN", "\"9223372036854775808\"", "[1]", "{}", "true"]


def deep(levels: int) -> list:
    return ["[" * levels, "[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels,
            '{"prompt":' + "[" * levels + "1" + "]" * levels + "}",
            '{"messages":[{"role":"user","content":' + '{"a":' * levels + "1" + "}" * levels + "}]}"]


def bodies() -> list:
    """(path, body) of each."""
    asked = []
    for path, start in (("/v1/completions", '"prompt": "1 2 3"'),
                        ("/v1/chat/completions", '"messages": [{"role": "user", "content": "hi"}]')):
        for field in COUNTS + MEASURES:
            for number in NUMBERS:
                bound = "" if field == "max_tokens" else ', "max_tokens": 3'
                asked.append((path, f'{{{start}, "{field}": {number}{bound}}}'))
        for number in NUMBERS:
            asked.append((path, f'{{{start}, "max_tokens": 3, "stop_token_ids": [{number}]}}'))
            asked.append((path, f'{{{start}, "max_tokens": 3, "logit_bias": {{"1": {number}}}}}'))
            key = number.strip('"')
            asked.append((path, f'{{{start}, "max_tokens": 3, "logit_bias": {{"{key}": 1}}}}'))
    for number in NUMBERS + ["49152", "-5", "[1, 9223372036854775808]"]:
        asked.append(("/v1/completions", f'{{"prompt": [{number}], "max_tokens": 3}}'))
        asked.append(("/detokenize", f'{{"tokens": [{number}]}}'))
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        for levels in (63, 64, 65, 1000, 1000000):
            asked += [(path, body) for body in deep(levels)]
        asked += [(path, ""), (path, "\0"), (path, "\xff" * 100), (path, '{"prompt": "' + "x" * 15000000 + '"}'),
                  (path, '{"prompt": "' + "\\ud800" * 1000 + '", "max_tokens": 1}'), (path, '{"a":1,' * 10000)]
    asked.append(("/v1/completions", json.dumps({"prompt": ["x"] * 10000, "n": 128, "max_tokens": 1})))
    asked.append(("/v1/completions", json.dumps({"prompt": "x", "stop": ["y" * 100000] * 1000, "max_tokens": 1})))
    asked.append(("/v1/completions", json.dumps({"prompt": "x", "bad_words": ["y" * 1000] * 10000, "max_tokens": 1})))
    return asked


def post(cluster: Cluster, path: str, body: str) -> int:
    """The status; fails if there is no answer."""
    request = urllib.request.Request(cluster.http + path, data=body.encode("utf-8", "surrogatepass"),
                                     headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            json.load(answer)
            return answer.status
    except urllib.error.HTTPError as error:
        assert json.load(error)["error"]["message"], (path, body[:200])
        return error.code


def over_grpc(cluster: Cluster) -> dict:
    """Codes of requests that are nonsense in one field each."""
    most32, most64 = 2**31 - 1, 2**64 - 1
    options = [{"max_tokens": v} for v in (most32, -most32, -1)] + [{"min_tokens": v} for v in (most32, -1)]
    options += [{"top_k": v} for v in (most32, -most32 - 1)] + [{"logprobs": most32}, {"logprobs": -1}]
    options += [{name: v} for name in MEASURES[:-1] for v in (float("nan"), float("inf"), -float("inf"), 1e38, -1.0)]
    options += [{"seed": most64}, {"logit_bias": {most32: 1}}, {"logit_bias": {-1: 1}}, {"logit_bias": {1: float("nan")}},
                {"stop_token_ids": [most32, -1]}, {"bad_words": ["\0", ""]}, {"stop": [""]}]
    prompts = [[most32], [-1], [49152], [0] * 100000]
    codes = {}
    with Client(cluster.grpc) as client:
        calls = [lambda o=o: client.generate("1 2 3", timeout=60, **({"max_tokens": 3} | o)) for o in options]
        calls += [lambda t=t: client.generate(tokens=t, timeout=60, max_tokens=3) for t in prompts]
        for call in calls:
            try:
                call().text()
                code = "OK"
            except grpc.RpcError as error:
                code = error.code().name
            codes[code] = codes.get(code, 0) + 1
    return codes


def strangers(cluster: Cluster, rng: random.Random) -> int:
    """Random bytes at every port that a process of the cluster listens on; how many connections."""
    pids = [line.split()[0] for line in cluster.processes().values()]
    inodes = set()
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                name = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            if name.startswith("socket:["):
                inodes.add(name[8:-1])
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            for line in list(lines)[1:]:
                words = line.split()
                if words[3] == "0A" and words[9] in inodes:
                    ports.add(int(words[1].rsplit(":", 1)[1], 16))
    count = 0
    for port in sorted(ports):
        for size in (0, 1, 100, 5000, 200000):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                try:
                    connection.sendall(rng.randbytes(size))
                except OSError:
                    pass
                count += 1
    say(f"{len(ports)} ports heard {count} strangers")
    return count


def crash_again_and_again(cluster: Cluster, rng: random.Random) -> tuple:
    """A rank dies whenever the request's prompt is computed. Its status, and how many deaths it took."""
    deaths, over, ended = 0, threading.Event(), {}

    def ask():
        with Client(cluster.grpc) as client:
            try:
                client.generate(slices(rng, corpus() * 2, 20000), max_tokens=4, temperature=0, request_id="poison").text()
                ended["code"], ended["details"] = "OK", ""
            except grpc.RpcError as error:
                ended["code"], ended["details"] = error.code().name, error.details()
        over.set()

    def running(client) -> bool:
        try:
            return client.explain("poison").state == "running"
        except grpc.RpcError:
            return False

    asker = threading.Thread(target=ask)
    asker.start()
    with Client(cluster.grpc) as client:
        while not over.is_set() and deaths < 20:
            if running(client):
                os.kill(cluster.child(f"worker-{deaths % 2}"), signal.SIGKILL)
                deaths += 1
                wait_until("the rank is lost", lambda: over.is_set() or not running(client), 30)
            time.sleep(0.002)
    asker.join()
    return ended, deaths


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crashes", type=int, default=5)
    options = parser.parse_args()
    summary, rng, text = Summary("poison"), random.Random(options.seed), corpus()
    asks = [Ask(slices(rng, text, rng.randrange(50, 900)), sampling(rng, i, rng.randrange(60, 260))) for i in range(8)]
    undisturbed(asks, MODEL)
    cluster = Cluster("--pp", "2", "--kvstore", "--device-kv", "64MiB", "--host-kv", "256MiB", *PATIENT, model=MODEL)
    over = threading.Event()
    readers = [Reader(i, cluster.http, asks, options.seed * 100 + i, lambda *_: False, over) for i in range(4)]
    try:
        for reader in readers:
            reader.start()
        before = {name: line.split()[0] for name, line in cluster.processes().items()}
        codes = {}
        all_bodies = bodies()
        for number, (path, body) in enumerate(all_bodies):
            began = time.time()
            code = post(cluster, path, body)
            codes[code] = codes.get(code, 0) + 1
            if code >= 500 or time.time() - began > 20:
                say(f"{code} after {time.time() - began:.1f} s: {path} {body[:200]}")
            if number % 200 == 0:
                say(f"{number} of {len(all_bodies)} bodies, {sum(reader.good for reader in readers)} streams right")
        summary.row("HTTP bodies by status", ", ".join(f"{k}: {v}" for k, v in sorted(codes.items())),
                    set(codes) <= {200, 400, 404, 413, 422})
        codes = over_grpc(cluster)
        summary.row("gRPC requests by status", ", ".join(f"{k}: {v}" for k, v in sorted(codes.items())),
                    set(codes) <= {"OK", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE"})
        summary.row("connections of strangers", str(strangers(cluster, rng)))
        after = {name: line.split()[0] for name, line in cluster.processes().items()}
        summary.row("processes that died of it", str(sum(before[name] != after.get(name) for name in before)),
                    before == after)
        for number in range(options.crashes):
            ended, deaths = crash_again_and_again(cluster, rng)
            named = ended["code"] == "ABORTED" and "poison" in ended["details"]
            summary.row(f"a request that a rank dies of, time {number + 1}", f"{ended['code']} after {deaths} deaths: "
                        f"{ended['details'][:90]}", named)
            counts = [reader.good for reader in readers]
            wait_until("every other stream goes on", lambda: all(r.good > c for r, c in zip(readers, counts)), 120)
        over.set()
        for reader in readers:
            reader.join(120)
        cluster.await_nothing_held()
    except BaseException:
        over.set()
        say(cluster.log())
        cluster.kill()
        raise
    cluster.stop()
    wrong, cut = sum(len(reader.wrong) for reader in readers), sum(len(reader.cuts) for reader in readers)
    summary.row("streams beside them right, wrong, cut", f"{sum(r.good for r in readers)}, {wrong}, {cut}",
                wrong == 0 and cut == 0)
    return summary.end()


if __name__ == "__main__":
    raise SystemExit(main())
