"""Eight streams at all times while processes of the cluster are killed and stopped at random points.

Every stream must be the undisturbed text. A stream that the coordinator's death cuts ends with an error at its client,
which asks again. How soon a loss is noticed comes from the logs, the gap between tokens from the clients.
"""
import argparse
import datetime
import os
import random
import re
import signal
import tempfile
import threading
import time

from soak import PATIENT, Ask, Cluster, Reader, Summary, corpus, sampling, say, slices, undisturbed, wait_until

STREAMS = 8
TARGETS = ["worker-0", "worker-1", "kvstore", "coordinator"]
MODEL = "smollm2-135m"


def make_asks(rng: random.Random) -> list:
    """Half begin alike, so that what tiers give back matters."""
    text = corpus()
    prefix = slices(rng, text, 1500)
    asks = [Ask(slices(rng, text, rng.randrange(50, 900)), sampling(rng, i, rng.randrange(60, 260))) for i in range(12)]
    asks += [Ask(prefix + slices(rng, text, rng.randrange(30, 200)), sampling(rng, i, rng.randrange(60, 260)))
             for i in range(12)]
    return asks


class Log:
    """New lines of a log of the cluster that say `words`, with their times."""

    LINE = re.compile(r"^(\d\d:\d\d:\d\d\.\d{3}) ")

    def __init__(self, cluster: Cluster, name: str):
        self.path = cluster.state / f"{name}.log"

    def lines(self, words: str, since: float) -> list:
        found = []
        for line in self.path.read_text(errors="replace").split("\n"):
            at = self.LINE.match(line)
            if at and words in line:
                when = datetime.datetime.strptime(at[1], "%H:%M:%S.%f").replace(tzinfo=datetime.timezone.utc)
                day = datetime.datetime.fromtimestamp(since, datetime.timezone.utc).date()
                stamp = when.replace(year=day.year, month=day.month, day=day.day).timestamp()
                if stamp < since - 43200:
                    stamp += 86400  # midnight passed
                if stamp >= since - 0.001:
                    found.append((stamp, line))
        return found


class Killer:
    def __init__(self, cluster: Cluster, rng: random.Random, readers: list, summary: Summary):
        self.cluster, self.random, self.readers, self.summary = cluster, rng, readers, summary
        self.noticed = {}       # kind -> seconds
        self.gaps = {}          # kind -> seconds, one of each stream
        self.recovery = {}      # the same, counted from when the process was dead or went on
        self.coordinator = []   # (begin, end) of its absences
        self.unnoticed = []

    def coordinator_away(self, begin: float, end: float) -> bool:
        """Whether the coordinator was hurt while a request ran."""
        return any(b <= end and begin <= e for b, e in self.coordinator)

    def notice(self, target: str, since: float):
        """When a survivor says that `target` is gone; None while nobody does."""
        if target == "kvstore":
            who, words = ["worker-0", "worker-1"], "kvstore lost"
        elif target == "coordinator":
            who, words = ["worker-0", "worker-1"], "no session with the coordinator"
        else:
            who, words = ["coordinator"], "replica lost"  # who says so may be the other rank, which lost its neighbour
        lines = [line for name in who for line in Log(self.cluster, name).lines(words, since)]
        return min(lines)[0] if lines else None

    def whole(self) -> bool:
        return len(self.cluster.processes()) == 4 and self.cluster.up_metric("interlace_ranks_ready") == 2

    def attached(self, since: float) -> bool:
        """Whether ranks that lost the store have found it again: who has no session with it has none to lose."""
        def last(name: str, words: str) -> float:
            return max((at for at, _ in Log(self.cluster, name).lines(words, since)), default=0)

        return all(last(name, "kvstore attached") >= last(name, "kvstore lost") for name in ("worker-0", "worker-1"))

    def strike(self, number: int):
        target = self.random.choice(TARGETS)
        how = self.random.choice(["kill", "stop and go on", "stop and kill"])
        pid = self.cluster.child(target)
        absence = [time.time(), float("inf")]
        if target == "coordinator":
            self.coordinator.append(absence)
        began = free = time.time()
        os.kill(pid, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        # A store that nobody asks is not missed. Whoever loses a request to it says so.
        patience = 10
        limit = time.time() + patience
        at = None
        while at is None and time.time() < limit:
            at = self.notice(target, began)
            time.sleep(0.02)
        if how != "kill":
            time.sleep(self.random.uniform(0, 1))
            free = time.time()
            os.kill(pid, signal.SIGCONT if how == "stop and go on" else signal.SIGKILL)
        wait_until(f"the cluster is whole after {target}: {how}\n{self.cluster.log()}", self.whole, 200)
        if target == "kvstore" and at is not None:
            wait_until("the ranks have found the kvstore again", lambda: self.attached(began), 60)
        up = time.time()
        wait_until(f"every stream goes on after {target}: {how}\n{self.cluster.log()}",
                   lambda: all(reader.last > up for reader in self.readers), 200)
        absence[1] = time.time() + 1
        kind = f"{target.split('-')[0]}, {how}"
        longest = [max([e - b for b, e in reader.gaps if e >= began], default=0) for reader in self.readers]
        self.gaps.setdefault(kind, []).extend(longest)
        self.recovery.setdefault(kind, []).extend(
            max([e - max(b, free) for b, e in reader.gaps if e >= free], default=0) for reader in self.readers)
        if at is None:
            self.unnoticed.append((kind, number))
        else:
            self.noticed.setdefault(kind, []).append(at - began)
        say(f"{number}: {kind}: {'not noticed' if at is None else f'noticed after {at - began:.2f} s'}, longest gap "
            f"{max(longest):.2f} s, {sum(reader.good for reader in self.readers)} streams right")


def percentile(values: list, share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0


def spread(values: list) -> str:
    return f"p50 {percentile(values, 0.5):.2f} p99 {percentile(values, 0.99):.2f} max {max(values, default=0):.2f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    summary, rng = Summary("kills"), random.Random(options.seed)
    asks = make_asks(rng)
    undisturbed(asks, MODEL)
    with tempfile.TemporaryDirectory(prefix="interlace-nightly-") as folder:
        cluster = Cluster("--pp", "2", "--keep-layers", "15", "--device-kv", "48MiB", "--host-kv", "256MiB", "--kvstore",
                          "--rocksdb", folder + "/ranks", "--set", "kv.rocksdb_bytes=256MiB", "--set",
                          "kv.tiers=rocksdb,remote", "--set", "kvstore.rocksdb_bytes=256MiB", "--set",
                          f"kvstore.rocksdb_dir={folder}/store", *PATIENT, model=MODEL)
        over, readers = threading.Event(), []
        killer = Killer(cluster, rng, readers, summary)
        try:
            readers += [Reader(i, cluster.http, asks, options.seed * 100 + i, killer.coordinator_away, over)
                        for i in range(STREAMS)]
            for reader in readers:
                reader.start()
            wait_until("every stream has begun", lambda: all(reader.tokens > 0 for reader in readers), 60)
            for number in range(1, options.kills + 1):
                time.sleep(rng.uniform(0.2, 3))
                killer.strike(number)
            over.set()
            for reader in readers:
                reader.join(120)
                assert not reader.is_alive(), f"stream {reader.number} hangs"
            cluster.await_nothing_held()
            parked = cluster.metric("interlace_request_parks_total")
            cached = cluster.metric("vllm:prefix_cache_hits_total")
            failed = cluster.metric("interlace_requests_failed_total")
            quarantined = cluster.metric("interlace_requests_quarantined_total")
        except BaseException:
            over.set()
            cluster.kill()
            raise
        cluster.stop()
    report(summary, killer, readers, options.kills)
    say(f"since the coordinator's last start: {cached:.0f} prompt tokens cached, {parked:.0f} parks, {failed:.0f} failed, "
        f"{quarantined:.0f} quarantined")
    return summary.end()


def report(summary: Summary, killer: Killer, readers: list, kills: int):
    wrong = sum(len(reader.wrong) for reader in readers)
    unforgiven = sum(len(reader.unforgiven) for reader in readers)
    summary.row("losses", str(kills))
    summary.row("streams right, wrong, pieces", f"{sum(r.good for r in readers)}, {wrong}, {sum(r.tokens for r in readers)}",
                wrong == 0)
    summary.row("streams cut by the coordinator's death and asked again", str(sum(len(r.cuts) for r in readers) - unforgiven))
    summary.row("requests refused while ranks or coordinator were away, and asked again", str(sum(r.refused for r in readers)))
    summary.row("streams cut otherwise", str(unforgiven), unforgiven == 0)
    ordinary = [gap for reader in readers for gap in reader.ordinary]
    summary.row("gap between pieces, all", f"p50 {percentile(ordinary, .5) * 1000:.0f} ms p99 "
                f"{percentile(ordinary, .99) * 1000:.0f} ms max {max(ordinary):.2f} s")
    for kind in sorted(killer.gaps):
        noticed = killer.noticed.get(kind, [])
        late = [seconds for seconds in noticed if seconds > 2.5]
        missed = sum(1 for k, _ in killer.unnoticed if k == kind)
        summary.row(f"{kind} ({len(noticed) + missed}): noticed", spread(noticed) + (f", {missed} not" if missed else ""),
                    not late and not missed)
        summary.row(f"{kind}: longest gap of a stream", spread(killer.gaps[kind]))
        if "stop" in kind:
            summary.row(f"{kind}: the gap from the end of the stop on", spread(killer.recovery[kind]))


if __name__ == "__main__":
    raise SystemExit(main())
