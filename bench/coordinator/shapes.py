#!/usr/bin/env python3
"""Clusters of several shapes, asked in turn: decode of some streams, and the first token of a long prompt.

    python3 bench/coordinator/shapes.py MODEL.gguf --shape "" --shape "--pp 2" --streams 1,8,32 --prompt 2000
    python3 bench/coordinator/shapes.py MODEL.gguf --shape "--set engine.threads=1" --shape "--sp 2 --set engine.threads=1"
        --streams "" --prompt 8000 --set sched.chunk_tokens=512 --set kv.device_bytes=512MiB

A shape is what `interlace serve` is given beside the model. All stand side by side and idle while another is asked, so what
else the machine does meets all alike; each round begins with the next one, and ratios to the first shape are taken within
a round. Every shape gets the same prompts, new ones in each round, and must answer the same. Of a prompt the processor time
of the busiest rank stands beside the clock: what it would take at least if each rank had its cores for itself.
"""
import argparse
import http.client
import json
import os
import pathlib
import random
import shlex
import statistics
import tempfile
import time

from doors import http_round, processes_under, serve


def busy(process) -> dict:
    """Seconds of processor time of each rank below `process` so far."""
    seconds = {}
    for pid in processes_under(process.pid):
        name, rest = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)
        if "(interlace-work" in name:
            seconds[pid] = sum(map(int, rest.split()[11:13])) / os.sysconf("SC_CLK_TCK")
    return seconds


def prefill(process, address, prompt: list) -> tuple:
    """Seconds until the first token, the busiest rank's processor seconds, and the token's text."""
    connection = http.client.HTTPConnection(*address, timeout=600)
    before, began = busy(process), time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps({"prompt": prompt, "max_tokens": 1, "temperature": 0,
                                                              "ignore_eos": True}), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    took, after = time.perf_counter() - began, busy(process)
    return took, max(after[pid] - before[pid] for pid in before), answer["choices"][0]["text"]


def measure(options, servers, draw, seen) -> None:
    """One round: each shape's figures are added to seen[figure][shape]."""
    streams = [int(count) for count in options.streams.split(",") if count]
    prompt = [draw.randrange(100, options.vocab) for _ in range(options.prompt)]
    texts = set()
    for shape, (process, address) in servers:
        for count in streams:
            seen.setdefault(f"decode {count}", {}).setdefault(shape, []).append(http_round(address, count)[0])
        if not prompt:
            continue
        took, computed, text = prefill(process, address, prompt)
        seen.setdefault(f"prompt {len(prompt)}", {}).setdefault(shape, []).append(len(prompt) / took)
        seen.setdefault("busiest rank", {}).setdefault(shape, []).append(len(prompt) / max(computed, 1e-3))
        texts.add(text)
    if len(texts) > 1:
        raise SystemExit(f"the answers differ: {texts}")


def show(options, seen) -> None:
    print(f"tokens/s, medians of {options.rounds} rounds; times those of the first shape, in brackets least and most")
    for figure, by_shape in seen.items():
        first = by_shape[options.shape[0]]
        for shape in options.shape:
            ratios = sorted(mine / theirs for mine, theirs in zip(by_shape[shape], first))
            print(f"{figure:>14} {statistics.median(by_shape[shape]):>8.1f}  {statistics.median(ratios):.2f}x "
                  f"({ratios[0]:.2f}-{ratios[-1]:.2f})  {shape or '(as serve starts it)'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("out/release/bin"))
    parser.add_argument("--shape", action="append", required=True, help="flags of serve; others are compared with the first")
    parser.add_argument("--streams", default="1,8", help="streams at once, a list; empty: none")
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of the long prompt; 0: none")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--vocab", type=int, default=40000, help="ids of prompts are drawn below this")
    parser.add_argument("--set", action="append", default=[], help="a setting of all servers, NAME=VALUE")
    options = parser.parse_args()
    common = [word for setting in options.set for word in ("--set", setting)]
    draw, seen, servers = random.Random(1), {}, []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, shape in enumerate(options.shape):
                place = pathlib.Path(folder) / str(number)
                place.mkdir()
                servers.append((shape, serve(options.bin, options.model, str(place), [*common, *shlex.split(shape)])))
            measure(options, servers, draw, {})  # warms up, and steps of every size are learned
            for number in range(options.rounds):
                turn = number % len(servers)
                measure(options, servers[turn:] + servers[:turn], draw, seen)
        finally:
            for _, (process, _) in servers:
                process.terminate()
            for _, (process, _) in servers:
                process.wait(60)
    show(options, seen)


if __name__ == "__main__":
    main()
