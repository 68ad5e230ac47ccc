#!/usr/bin/env python3
"""Streams at all times while processes of a fleet are killed, stopped and cut off at random points.

Two replicas, a kvstore, two coordinators and etcd, each on a host of its own: a network namespace, so it needs root; without
it the part is left out and says so. Clients resume: each stream must have the tokens of `interlace run` alone, none twice,
none missing, over every loss of everybody.

    python tests/nightly/host_kills.py --losses 300 --streams 200 --seed 1
"""
import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time

from kills import Log, make_asks, percentile
from soak import OUT, PATIENT, Summary, references, say, wait_until

from hosts import Fleet, Network, why_no_hosts

MODEL = "smollm2-135m"
READERS = 8
WAYS = ["kill", "stop and go on", "stop and kill", "cut and heal"]
LATE = 2.5       # seconds until a loss must have been noticed
FAILOVER = 3.0   # and until clients of a coordinator that is gone get tokens of the next one


class Resumer(threading.Thread):
    """A client of all coordinators: asks, reads, compares, asks the next. A gap is the time between two pieces, whatever
    broke off in between."""

    def __init__(self, number: int, address: str, asks: list, seed: int, over: threading.Event):
        super().__init__(daemon=True)
        self.number, self.address, self.asks, self.random, self.over = number, address, asks, random.Random(seed), over
        self.good, self.tokens, self.tries, self.wrong, self.cuts = 0, 0, 0, [], []
        self.last = time.time()
        self.gaps = []   # (begin, end) of each that is longer than 100 ms

    def run(self):
        from interlace_client import AnotherAnswer, Client
        import grpc
        with Client(self.address) as client:
            while not self.over.is_set():
                ask = self.random.choice(self.asks)
                stream = client.generate(ask.prompt, timeout=300, retries=100, **ask.options)
                try:
                    for _ in stream:
                        self._piece()
                except AnotherAnswer as error:
                    self._note_wrong(ask, stream, str(error))
                    continue
                except grpc.RpcError as error:
                    self.cuts.append(f"{error.code().name}: {error.details()}")
                    say(f"stream {self.number} ended: {self.cuts[-1]}")
                    continue
                finally:
                    self.tries += stream.tries - 1
                if stream.token_ids == ask.ids:
                    self.good += 1
                else:
                    self._note_wrong(ask, stream, "other tokens")

    def _piece(self):
        now = time.time()
        if now - self.last > 0.1:
            self.gaps.append((self.last, now))
        self.last = now
        self.tokens += 1

    def _note_wrong(self, ask, stream, why: str):
        same = next((i for i, (a, b) in enumerate(zip(stream.token_ids, ask.ids)) if a != b), len(stream.token_ids))
        self.wrong.append((time.time(), why))
        say(f"stream {self.number} WRONG after {same} of {len(ask.ids)} tokens, {len(stream.token_ids)} came, "
            f"{stream.tries} tries: {why}: {ask.options}")


class Kind:
    """What was measured of one kind of loss, in seconds."""

    def __init__(self):
        self.noticed, self.gaps, self.after, self.leads, self.missed = [], [], [], [], 0


class Striker:
    def __init__(self, fleet: Fleet, rng: random.Random, readers: list):
        self.fleet, self.random, self.readers = fleet, rng, readers
        self.kinds, self.stood_down = {}, 0

    def strike(self, number: int):
        leader = wait_until("somebody leads", self.fleet.leader)
        role = self.random.choice(["worker", "kvstore", "coordinator"])
        target = {"worker": self.random.choice(self.fleet.workers), "kvstore": "kvstore",
                  "coordinator": self.random.choice([leader, leader, leader, self._other(leader)])}[role]
        if role == "coordinator" and target != leader:
            role = "standby"
        how, hold = self.random.choice(WAYS), self.random.uniform(0, 1)
        kind = self.kinds.setdefault(f"{role}, {how}", Kind())
        began = time.time()
        self._hurt(target, how)
        at = self._notice(role, began)
        if how != "kill":
            time.sleep(hold)
            self._end_of(target, how)
        struck = time.time()
        # A killed process stays away until everybody goes on without it.
        self._wait(number, "every stream goes on", lambda: all(reader.last > struck for reader in self.readers))
        if how.endswith("kill"):
            self.fleet.processes[target].wait()
            self.fleet.start(target)
        self._wait(number, "the cluster is whole", lambda: self.whole() and self._reattached(began))
        longest = max(max([e - b for b, e in list(reader.gaps) if e >= began], default=0) for reader in self.readers)
        kind.gaps.append(longest)
        if role != "standby":
            if at is None:
                kind.missed += 1
            else:
                kind.noticed.append(at - began)
                kind.after.append(max(max([e - max(b, at) for b, e in list(reader.gaps) if e >= at], default=0)
                                      for reader in self.readers))
        if role == "coordinator":
            took = Log(self.fleet, self._other(leader)).lines("this coordinator leads epoch", began)
            if took:
                kind.leads.append(took[0][0] - began)
        self.stood_down = sum(self.fleet.said(name, "this coordinator leads no more") for name in self.fleet.coordinators)
        say(f"{number}: {target}, {role}: {how}: " + (f"noticed after {at - began:.2f} s" if at else "not noticed")
            + f", longest gap {longest:.2f} s, {sum(reader.good for reader in self.readers)} streams right")

    def whole(self) -> bool:
        return self.fleet.whole() and all(self.fleet.metric("interlace_leads", of=name) >= 0 for name in self.fleet.coordinators)

    def _reattached(self, since: float) -> bool:
        """Ranks that said that they lost the kvstore have it again: a store that nobody has is missed by nobody."""
        return all(Log(self.fleet, name).lines("kvstore attached", since) for name in self.fleet.workers
                   if Log(self.fleet, name).lines("kvstore lost", since))

    def _other(self, coordinator: str) -> str:
        return next(name for name in self.fleet.coordinators if name != coordinator)

    def _hurt(self, target: str, how: str):
        if how == "kill":
            self.fleet.signal(target, signal.SIGKILL)
        elif how == "cut and heal":
            self.fleet.network.cut(target)
        else:
            self.fleet.signal(target, signal.SIGSTOP)

    def _end_of(self, target: str, how: str):
        if how == "cut and heal":
            self.fleet.network.heal(target)
        else:
            self.fleet.signal(target, signal.SIGCONT if how == "stop and go on" else signal.SIGKILL)

    def _notice(self, role: str, began: float):
        """When a survivor said that the target is gone; None: nobody did within ten seconds, or nobody is to."""
        who, words = {"worker": (self.fleet.coordinators, "replica lost"), "kvstore": (self.fleet.workers, "kvstore lost"),
                      "coordinator": (self.fleet.workers, "no session with the coordinator"), "standby": ([], "")}[role]
        limit = time.time() + (10 if who else self.random.uniform(0, 3))
        while time.time() < limit:
            lines = [line for name in who for line in Log(self.fleet, name).lines(words, began)]
            if lines:
                return min(lines)[0]
            time.sleep(0.02)
        return None

    def _wait(self, number: int, what: str, condition):
        try:
            wait_until(what, condition, 120)
        except AssertionError:
            (OUT / f"host_kills-{number}.log").write_text(self.fleet.log())
            say(f"{number}: not within 120 s: {what}; logs are in {OUT}/host_kills-{number}.log; readers' last pieces "
                f"{[round(time.time() - reader.last, 1) for reader in self.readers]} s ago")
            raise


def figures(values: list) -> str:
    return f"{percentile(values, .5):5.2f} {percentile(values, .99):6.2f} {max(values, default=0):6.2f}" if values else f"{'-':>5} {'-':>6} {'-':>6}"


def report(summary: Summary, striker: Striker, readers: list, losses: int):
    wrong, cuts = sum(len(r.wrong) for r in readers), [cut for r in readers for cut in r.cuts]
    summary.row("losses, streams right, pieces, calls tried again",
                f"{losses}, {sum(r.good for r in readers)}, {sum(r.tokens for r in readers)}, {sum(r.tries for r in readers)}")
    summary.row("times that a coordinator stood down, as its lease was not renewed in time", str(striker.stood_down))
    summary.row("streams with a token that is wrong, missing or twice", str(wrong), wrong == 0)
    summary.row("streams that ended with a status", f"{len(cuts)}{': ' + cuts[0] if cuts else ''}", not cuts)
    table = [f"{'':28} {'times':>5} | {'noticed':>19} | {'longest gap of a loss':>21} | {'gap after notice':>19} | {'next one leads':>19}"]
    for name in sorted(striker.kinds):
        kind = striker.kinds[name]
        table.append(f"{name:28} {len(kind.gaps):5} | {figures(kind.noticed)} | {figures(kind.gaps):>21} | {figures(kind.after)} | "
                     f"{figures(kind.leads)}")
        late = kind.missed or any(seconds > LATE for seconds in kind.noticed)
        measured = "; ".join(" ".join(figures(values).split()) for values in (kind.noticed, kind.gaps, kind.after, kind.leads))
        summary.row(f"{name} ({len(kind.gaps)}, {kind.missed} not noticed): p50 p99 max of each", measured, not late)
    print("\n".join(["seconds: p50 p99 max", *table]))
    leader = [seconds for name, kind in striker.kinds.items() if name.startswith("coordinator") for seconds in kind.gaps]
    summary.row("failover at the client, p50 p99 max", " ".join(figures(leader).split()), percentile(leader, .99) <= FAILOVER)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", type=int, default=300)
    parser.add_argument("--streams", type=int, default=200, help="that must have ended at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stages", type=int, default=1, help="of each of the two replicas")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # hosts and processes are cleared away, too
    summary, rng = Summary("host_kills"), random.Random(options.seed)
    OUT.mkdir(parents=True, exist_ok=True)
    if why := why_no_hosts():
        summary.row("losses on hosts", f"left out: {why}")
        return summary.end()
    asks = make_asks(rng)
    references(asks, MODEL)
    say(f"{len(asks)} undisturbed streams")
    with tempfile.TemporaryDirectory(prefix="interlace-nightly-") as folder, Network() as network:
        fleet = Fleet(network, "kv.device_bytes=48MiB", "kv.host_bytes=128MiB", "kv.keep_layers=15", "engine.threads=1",
                      "kv.rocksdb_bytes=256MiB", "kvstore.rocksdb_bytes=256MiB", PATIENT[1], stages=options.stages, replicas=2,
                      coordinators=2, rocksdb=folder, model=MODEL)
        over = threading.Event()
        readers = [Resumer(i, fleet.grpc, asks, options.seed * 100 + i, over) for i in range(READERS)]
        striker, number = Striker(fleet, rng, readers), 0
        try:
            for reader in readers:
                reader.start()
            wait_until("every stream has begun", lambda: all(reader.tokens > 0 for reader in readers), 60)
            for number in range(1, options.losses + 1):
                time.sleep(rng.uniform(0.2, 2))
                striker.strike(number)
            wait_until(f"{options.streams} streams", lambda: sum(r.good for r in readers) >= options.streams, 1800)
            over.set()
            for reader in readers:
                reader.join(120)
                assert not reader.is_alive(), f"stream {reader.number} hangs"
            wait_until("every block was given back", fleet.nothing_held, 60)
            fleet.stop()
        except BaseException:
            report(summary, striker, readers, number)
            summary.row("the part", f"broke off at loss {number}", False)
            summary.end()
            raise
        finally:
            over.set()
            fleet.kill()
    report(summary, striker, readers, options.losses)
    return summary.end()


if __name__ == "__main__":
    raise SystemExit(main())
