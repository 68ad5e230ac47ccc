#!/usr/bin/env python3
"""A thousand streams at once with the settings as shipped, then a soak: what the coordinator holds must not grow.

    python tests/nightly/streams.py --streams 1000 --minutes 10
"""
import argparse
import asyncio
import json
import os
import random
import sys
import time

from soak import BIN, Cluster, Summary, say  # noqa: F401

TOKENS = 8


def memory(pid: int) -> int:
    """Resident bytes of a process that are its own."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return 1024 * sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_", "Swap:")))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Door:
    """Connections to one HTTP door, by asyncio alone: a client of a thousand streams must be cheap itself."""

    def __init__(self, url: str):
        host, port = url.removeprefix("http://").split(":")
        self.host, self.port = host, int(port)

    async def open(self, path: str, body: dict | None = None):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        data = b"" if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        return reader, writer

    async def ask(self, path: str, body: dict | None = None):
        """The status and the whole answer."""
        reader, writer = await self.open(path, body)
        try:
            answer = await reader.read()
        finally:
            writer.close()
        return int(answer[9:12] or 0), answer


async def watch_health(door: Door, took: list, over: asyncio.Event):
    while not over.is_set():
        began = time.perf_counter()
        status, _ = await door.ask("/health")
        took.append((time.perf_counter() - began, status))
        await asyncio.sleep(0.02)


def percentile(values: list, share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def at_once(summary: Summary, cluster: Cluster, streams: int):
    door, pid = Door(cluster.http), cluster.child("coordinator")
    body = {"prompt": "1 2 3", "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "stream": True}
    await door.ask("/v1/completions", body)
    before, took, over = memory(pid), [], asyncio.Event()
    health = asyncio.create_task(watch_health(door, took, over))
    began = time.perf_counter()
    opened = [await door.open("/v1/completions", body) for _ in range(streams)]
    connecting = time.perf_counter() - began
    await asyncio.sleep(1)
    held = memory(pid)

    async def finish(reader, writer):
        answer = await reader.read()
        writer.close()
        return answer

    answers = await asyncio.gather(*[finish(*connection) for connection in opened])
    whole = sum(answer.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in answer and b'"error"' not in answer
                for answer in answers)
    refused = [answer[:300] for answer in answers if not answer.startswith(b"HTTP/1.1 200")]
    seconds = time.perf_counter() - began
    over.set()
    await health
    times = [t for t, status in took if status == 200]
    summary.row(f"{streams} streams of {TOKENS} tokens at once, answered whole", f"{whole}, {len(refused)} refused",
                whole == streams)
    if refused:
        say(refused[0].decode(errors="replace"))
    summary.row("until all were connected, and had ended", f"{connecting:.1f} s, {seconds:.1f} s")
    summary.row("/health meanwhile, p50 and p99",
                f"{1000 * percentile(times, 0.5):.1f} ms, {1000 * percentile(times, 0.99):.1f} ms of {len(took)}",
                len(times) == len(took) and percentile(times, 0.99) < 0.05)
    summary.row("memory of the coordinator for each stream that waits", f"{(held - before) / streams / 1024:.1f} KiB")


async def client(door: Door, rng: random.Random, over: float, counts: dict):
    """Streams, whole answers, clients that leave, refusals and large bodies, as they come."""
    while time.time() < over:
        kind = rng.choice(["stream", "stream", "whole", "leave", "bad", "large", "page"])
        body = {"prompt": " ".join(str(rng.randrange(99)) for _ in range(rng.randrange(1, 40))),
                "max_tokens": rng.randrange(1, 12), "temperature": 0, "stream": kind in ("stream", "leave")}
        if kind == "bad":
            body["temperature"] = -1
        if kind == "large":
            body["prompt"] = "one two three " * 100000
        try:
            if kind == "page":
                status, _ = await door.ask(rng.choice(["/health", "/metrics", "/ui/state", "/v1/models", "/nothing"]))
            elif kind == "leave":
                reader, writer = await door.open("/v1/completions", body)
                status = int((await reader.read(12))[9:12])
                writer.close()
            else:
                status, _ = await door.ask("/v1/completions", body)
        except OSError as error:
            status = type(error).__name__
        counts[kind, status] = counts.get((kind, status), 0) + 1


async def soak(summary: Summary, cluster: Cluster, minutes: float, seed: int):
    door, pid = Door(cluster.http), cluster.child("coordinator")
    counts, samples = {}, []
    over = time.time() + 60 * minutes
    clients = [asyncio.create_task(client(door, random.Random(seed * 1000 + i), over, counts)) for i in range(24)]
    while time.time() < over:
        await asyncio.sleep(5)
        samples.append((memory(pid), descriptors(pid)))
    await asyncio.gather(*clients)
    await asyncio.sleep(3)
    idle = descriptors(pid)
    half = samples[len(samples) // 2:]
    third = max(1, len(half) // 3)
    early, late = (sum(m for m, _ in part) / len(part) for part in (half[:third], half[-third:]))
    wanted = {"stream": {200}, "whole": {200}, "leave": {200}, "bad": {400}, "large": {400}, "page": {200, 404}}
    odd = {key: n for key, n in counts.items() if key[1] not in wanted[key[0]]}
    summary.row(f"requests in {minutes:g} minutes, answered otherwise than they should be",
                f"{sum(counts.values())}, {odd or 'none'}", not odd)
    summary.row("memory of the coordinator, second half: first and last third",
                f"{early / 2**20:.1f} MiB, {late / 2**20:.1f} MiB", late - early < 4 * 2**20)
    summary.row("descriptors: most under load, and idle afterwards", f"{max(n for _, n in samples)}, {idle}",
                idle <= min(n for _, n in samples) + 2)


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--streams", type=int, default=1000)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    summary = Summary("streams")
    cluster = Cluster()
    try:
        if given.streams:
            asyncio.run(at_once(summary, cluster, given.streams))
            cluster.await_nothing_held()
        if given.minutes:
            asyncio.run(soak(summary, cluster, given.minutes, given.seed))
            cluster.await_nothing_held()
    finally:
        cluster.stop()
    return summary.end()


if __name__ == "__main__":
    sys.exit(main())
