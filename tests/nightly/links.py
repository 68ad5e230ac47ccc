#!/usr/bin/env python3
"""Two stages on hosts of their own whose links are slow, flap, or are cut for a while: the same tokens, and what it costs.

Needs root (network namespaces); without it the part is left out and says so.
"""
import argparse
import random
import signal
import sys
import time

import grpc
from kills import percentile
from soak import PATIENT, Ask, Summary, corpus, references, sampling, say, slices, wait_until

from hosts import Fleet, Network, why_no_hosts

MODEL = "smollm2-135m"
SETTINGS = ("kv.device_bytes=48MiB", "kv.host_bytes=64MiB", "kv.keep_layers=15", "engine.threads=1", PATIENT[1])
SLOW = [(0.001, 0), (0.005, 0), (0.02, 0), (0.05, 0), (0, 2e6), (0.01, 1e6), (0.05, 5e5)]  # seconds and bytes a second, each way
CUTS = [0.2, 0.5, 1, 1.5, 2, 2.5, 3, 5]  # seconds
VICTIMS = ["worker-0-0", "worker-0-1", "kvstore", "coordinator-a", "between the stages", "what the second stage sends"]


def make_asks(rng: random.Random) -> list:
    text = corpus()
    return [Ask(slices(rng, text, length), sampling(rng, i, 60)) for i, length in enumerate((60, 400, 1500, 1500))]


class Streams:
    """One stream after another, compared; what is between their pieces."""

    def __init__(self, fleet: Fleet, asks: list):
        from interlace_client import AnotherAnswer, Client
        self._another, self._client, self._asks = AnotherAnswer, Client(fleet.grpc), asks
        self.right, self.failed, self.tries = 0, [], 0

    def one(self, ask: Ask, after: int = 0, act=None) -> tuple:
        """Seconds to the first piece, and the longest gap; act() comes after so many pieces."""
        began = before = time.monotonic()
        first, longest = 0.0, 0.0
        stream = self._client.generate(ask.prompt, timeout=240, retries=100, **ask.options)
        try:
            for count, _ in enumerate(stream):
                now = time.monotonic()
                first = first or now - began
                longest = max(longest, now - before) if count else 0.0
                before = now
                if act is not None and count == after:
                    act()
        except (grpc.RpcError, self._another) as error:
            self.failed.append(str(error)[:200])
        else:
            self.right += stream.token_ids == ask.ids
            if stream.token_ids != ask.ids:
                self.failed.append(f"other tokens: {ask.options}")
        self.tries += stream.tries - 1
        return first, longest

    def told(self) -> str:
        return f"{self.right} right, {len(self.failed)} not{': ' + self.failed[0] if self.failed else ''}"

    def close(self):
        self._client.close()


def slow_links(summary: Summary, asks: list):
    """The second stage and the kvstore lie behind the slow link."""
    for delay, rate in SLOW:
        with Network() as network:
            network.host("far", delay, rate)
            fleet = Fleet(network, *SETTINGS, stages=2, model=MODEL,
                          place=lambda name: "far" if name in ("worker-0-1", "kvstore") else name)
            streams = Streams(fleet, asks)
            try:
                measured = [streams.one(ask) for ask in asks]
                losses = fleet.metric("interlace_replica_losses_total")
                fleet.stop()
            finally:
                streams.close()
                fleet.kill()
        summary.row(f"a link of {1000 * delay:g} ms" + (f" and {rate / 1e6:g} MB/s" if rate else "") + " each way",
                    f"{streams.told()}, {losses:g} losses, first token {percentile([f for f, _ in measured], .5):.2f} s, "
                    f"longest gap {max(g for _, g in measured):.2f} s", streams.right == len(asks) and losses == 0)


def cuts(summary: Summary, asks: list, rng: random.Random):
    """Cuts of each length in mid-stream, healed; then links that come and go."""
    with Network() as network:
        fleet = Fleet(network, *SETTINGS, stages=2, model=MODEL)
        try:
            for victim in VICTIMS:
                streams, gaps = Streams(fleet, asks), []
                for seconds in CUTS:
                    gaps.append(streams.one(rng.choice(asks), rng.randrange(1, 50), lambda s=seconds: cut_for(network, victim, s))[1])
                    wait_until(f"the cluster is whole after {victim} was cut for {seconds} s", fleet.whole, 60)
                streams.close()
                summary.row(f"{victim} cut for {', '.join(f'{s:g}' for s in CUTS)} s",
                            f"{streams.told()}, {streams.tries} calls again, gaps {', '.join(f'{g:.1f}' for g in gaps)} s",
                            streams.right == len(CUTS))
            for victim in VICTIMS:
                streams = Streams(fleet, asks)
                longest = max(streams.one(rng.choice(asks), 2, lambda: flap(network, victim, rng))[1] for _ in range(4))
                streams.close()
                wait_until(f"the cluster is whole after {victim} flapped", fleet.whole, 60)
                summary.row(f"{victim} flaps", f"{streams.told()}, {streams.tries} calls again, longest gap {longest:.2f} s",
                            streams.right == 4)
            wait_until("every block was given back", fleet.nothing_held, 60)
            fleet.stop()
        finally:
            fleet.kill()


def cut(network: Network, victim: str):
    if victim == "between the stages":
        network.cut_between("worker-0-0", "worker-0-1")
    elif victim == "what the second stage sends":
        network.cut_way("worker-0-1", "coordinator-a")
    else:
        network.cut(victim)


def heal(network: Network, victim: str):
    if victim == "between the stages":
        network.heal_between("worker-0-0", "worker-0-1")
    elif victim == "what the second stage sends":
        network.heal_way("worker-0-1", "coordinator-a")
    else:
        network.heal(victim)


def cut_for(network: Network, victim: str, seconds: float):
    cut(network, victim)
    time.sleep(seconds)
    heal(network, victim)


def flap(network: Network, victim: str, rng: random.Random):
    for _ in range(6):
        cut_for(network, victim, rng.uniform(0.05, 1))
        time.sleep(rng.uniform(0.05, 0.5))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # hosts and processes are cleared away, too
    summary, rng = Summary("links"), random.Random(options.seed)
    if why := why_no_hosts():
        summary.row("links of hosts", f"left out: {why}")
        return summary.end()
    asks = make_asks(rng)
    references(asks, MODEL)
    say(f"{len(asks)} undisturbed streams")
    try:
        slow_links(summary, asks)
        cuts(summary, asks, rng)
    except BaseException as error:
        summary.row("the part", f"broke off: {str(error)[:200]}", False)
        raise
    finally:
        code = summary.end()
    return code


if __name__ == "__main__":
    raise SystemExit(main())
