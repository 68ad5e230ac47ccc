"""The same tokens, bit for bit, however the cluster is cut and wherever KV lives, until enough tokens were compared.

A reference stream of each request comes from `interlace run`: alone, one thread, every layer on the device, no tier.
Then clusters of real processes answer the same requests, one after the other or eight at once.
"""
import argparse
import concurrent.futures
import dataclasses
import os
import random
import signal
import tempfile
import time

from soak import LAYERS, PATIENT, Ask, Cluster, Summary, corpus, references, run_ids, sampling, say, slices, wait_until

from interlace_client import Client

ROOMY, SCARCE = "384MiB", {1: "14MiB", 2: "9MiB", 3: "7MiB"}


@dataclasses.dataclass
class Variant:
    pp: int
    keep: str
    device: str = ROOMY
    host: str = "1GiB"
    streams: int = 8
    tier: str = ""       # rocksdb: found again after a restart of everything; remote: after the death of a rank
    settings: tuple = ()
    part: int = 0        # which half of the requests it gets; 0: all

    def __str__(self):
        return f"pp={self.pp} keep={self.keep} device={self.device} streams={self.streams} {self.tier} " + \
            " ".join(self.settings)


def variants(layers: int) -> list:
    keeps = ["0", "1", str(layers // 2), str(layers - 1), str(layers), "auto"]
    some = [Variant(pp, keep, part=1 + (pp + i) % 2) for i, keep in enumerate(keeps) for pp in (1, 2, 3)]
    some += [Variant(pp, "auto", device=SCARCE[pp]) for pp in (1, 2, 3)]
    some += [Variant(1, "0", streams=1, part=1), Variant(2, str(layers), streams=1, part=2),
             Variant(3, "auto", streams=1, device=SCARCE[3], part=1)]
    some += [Variant(1, "auto", tier="rocksdb"), Variant(2, str(layers // 2), tier="rocksdb", host="96MiB"),
             Variant(2, "auto", tier="remote"), Variant(3, "0", tier="remote", host="256MiB")]
    some += [Variant(1, str(layers // 2), settings=("sched.chunk_tokens=16", "engine.threads=2"), part=1),
             Variant(2, "auto", settings=("sched.speculate=ngram", "sched.draft_tokens=4"), part=2),
             Variant(1, "auto", device=SCARCE[1], settings=("sched.speculate=auto", "sched.draft_tokens=4", "sched.chunk_tokens=64"), part=1)]
    return some


def make_asks(seed: int) -> list:
    """Short prompts, eight with one beginning, and four that reach position 2,000 or more."""
    rng, text = random.Random(seed), corpus()
    asks = [Ask(slices(rng, text, rng.randrange(30, 500)), sampling(rng, i, 80)) for i in range(8)]
    prefix = slices(rng, text, 2200)
    asks += [Ask(prefix + slices(rng, text, rng.randrange(30, 300)), sampling(rng, i, 80)) for i in range(8)]
    long = slices(rng, text, 6000)
    asks += [Ask(long + slices(rng, text, 500 + 100 * i), sampling(rng, i, 150)) for i in range(2)]
    asks += [Ask(slices(rng, text, 4500), sampling(rng, 1 + 2 * i, 700)) for i in range(2)]
    return asks


def answer(client: Client, ask: Ask):
    """The ids of the stream, and how many tokens of its prompt were not computed."""
    stream = client.generate(ask.prompt, **ask.options)
    stream.text()
    return stream.token_ids, stream.result.cached_tokens, stream.result.prompt_tokens


class Comparison:
    def __init__(self, model: str, summary: Summary):
        self.model, self.summary = model, summary
        self.tokens, self.streams, self.wrong, self.longest = 0, 0, 0, 0
        self.cached = {"device": 0, "host": 0, "rocksdb": 0, "kvstore": 0}

    def compare(self, cluster: Cluster, variant: Variant, asks: list, what: str) -> int:
        """Sends all, compares each; returns how many prompt tokens were cached."""
        cached = 0
        with Client(cluster.grpc) as client, concurrent.futures.ThreadPoolExecutor(variant.streams) as pool:
            for ask, done in [(ask, pool.submit(answer, client, ask)) for ask in asks]:
                ids, hits, prompt = done.result()
                cached += hits
                self.streams += 1
                self.tokens += len(ask.ids)
                self.longest = max(self.longest, prompt + len(ids))
                if ids != ask.ids:
                    self.wrong += 1
                    at = next((i for i, (a, b) in enumerate(zip(ids, ask.ids)) if a != b), min(len(ids), len(ask.ids)))
                    say(f"DIFFERENT from token {at} of {len(ask.ids)}: {variant} {what}: {ask.options} {ask.prompt[:60]!r}")
        return cached

    def run(self, variant: Variant, asks: list):
        with tempfile.TemporaryDirectory(prefix="interlace-nightly-") as folder:
            flags = ["--pp", str(variant.pp), "--keep-layers", variant.keep, "--device-kv", variant.device, "--host-kv",
                     variant.host, *PATIENT]
            for setting in variant.settings:
                flags += ["--set", setting]
            if variant.tier == "rocksdb":
                flags += ["--rocksdb", folder + "/rocksdb"]
            if variant.tier == "remote":
                flags += ["--kvstore"]
            cluster = Cluster(*flags, model=self.model)
            try:
                hits = self.compare(cluster, variant, asks, "first")
                self.cached["host" if variant.keep == "0" else "device"] += hits
                if variant.tier:
                    cluster = self.again(cluster, flags, variant, asks)
                cluster.await_nothing_held()
            finally:
                cluster.stop()

    def again(self, cluster: Cluster, flags: list, variant: Variant, asks: list) -> Cluster:
        """Everything above the tier forgets: what is found again comes from the tier."""
        self.await_quiet_tiers(cluster)
        if variant.tier == "rocksdb":
            cluster.stop()
            cluster = Cluster(*flags, model=self.model)
        else:
            losses = cluster.metric("interlace_replica_losses_total")
            os.kill(cluster.child(f"worker-{variant.pp - 1}"), signal.SIGKILL)
            wait_until("the loss is noticed", lambda: cluster.metric("interlace_replica_losses_total") > losses)
            wait_until("the rank is back", lambda: cluster.metric("interlace_ranks_ready") == variant.pp)
        # One of the eight that begin alike goes first and alone: what it does not compute can come from the tier alone.
        first = self.compare(cluster, variant, asks[8:9], "again")
        self.compare(cluster, variant, asks[:8] + asks[9:], "again")
        self.cached["kvstore" if variant.tier == "remote" else variant.tier] += first
        if first == 0:
            self.summary.row(f"{self.model}: {variant}", "nothing was found in the tier", False)
        return cluster

    def await_quiet_tiers(self, cluster: Cluster):
        """Writes come later than the blocks that they are of: waits until a second brings no more."""
        def quiet():
            before = cluster.metric("interlace_kv_tier_bytes")
            time.sleep(1)
            return before > 0 and cluster.metric("interlace_kv_tier_bytes") == before
        wait_until("the tiers have been written", quiet, 60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=50000, help="of each model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", default=",".join(LAYERS))
    parser.add_argument("--first", type=int, default=1, help="number of the variant to begin with")
    options = parser.parse_args()
    summary = Summary("exact")
    for model in options.models.split(","):
        comparison, seed = Comparison(model, summary), options.seed
        began = time.monotonic()
        all_variants = variants(LAYERS[model])
        while comparison.tokens < options.tokens:
            asks = make_asks(seed)
            references(asks, model)
            say(f"{model} seed {seed}: {sum(len(ask.ids) for ask in asks)} reference tokens of {len(asks)} streams")
            for number, variant in enumerate(all_variants):
                if number + 1 < options.first:
                    continue
                some = asks if variant.part == 0 else asks[variant.part - 1::2]
                comparison.run(variant, some)
                say(f"{model} {number + 1}/{len(all_variants)} {variant}: {comparison.tokens} tokens, "
                    f"{comparison.wrong} streams differ")
            seed += 1
        summary.row(f"{model}: tokens compared, streams, streams that differ",
                    f"{comparison.tokens}, {comparison.streams}, {comparison.wrong}", comparison.wrong == 0)
        summary.row(f"{model}: longest stream", f"{comparison.longest} positions", comparison.longest > 2000)
        for place, cached in comparison.cached.items():
            summary.row(f"{model}: prompt tokens from {place}", str(cached), cached > 0 or options.first > 1)
        say(f"{model}: {time.monotonic() - began:.0f} s")
    return summary.end()


if __name__ == "__main__":
    raise SystemExit(main())
