"""How much sooner a long prompt is read by several ranks that divide its rows (docs/decisions/sequence-parallel.md).

Clusters of one rank and of --ranks ranks a stage, each rank with --threads threads, stand side by side and are asked in
turn, so that what else the machine does meets both: time of a prompt of --tokens random tokens and one token of answer,
another prompt in each round, which both get and must answer alike. Beside the clock stands the processor time of the busiest
rank: what a prompt would take at least if the ranks had their cores for themselves.

    python3 bench/serve/prefill_ranks.py --model MODEL.gguf --tokens 8000 --rounds 7
"""
import argparse
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Cluster:
    def __init__(self, args, ranks: int):
        self.folder = tempfile.TemporaryDirectory(prefix="interlace-bench-")
        command = [str(ROOT / args.build / "bin" / "interlace"), "serve", args.model, "--port", "0", "--grpc-port", "0",
                   "--state", self.folder.name, "--sp", str(ranks), "--device-kv", args.device_kv,
                   "--set", f"engine.threads={args.threads}", "--set", f"sched.chunk_tokens={args.chunk}",
                   "--set", f"sched.step_tokens={args.chunk}"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ready = pathlib.Path(self.folder.name) / "coordinator.ready"
        limit = time.monotonic() + 120
        doors = {}
        while doors.get("serving") != "true":
            assert self.process.poll() is None and time.monotonic() < limit, "the cluster does not start"
            time.sleep(0.1)
            if ready.exists():
                doors = dict(line.split("=", 1) for line in ready.read_text().split())
        self.url = f"http://{doors['http']}"

    def processor_seconds(self) -> list[float]:
        """Of each rank since it started."""
        listed = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(self.process.pid)], capture_output=True, text=True,
                                check=True).stdout
        pids = [line.split()[0] for line in listed.splitlines() if line.split()[1].startswith("interlace-worke")]
        fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
        return [(int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK") for f in fields]

    def ask(self, prompt: list[int]) -> tuple[float, float, str]:
        """Seconds, seconds of the busiest rank's processor, and the answer."""
        body = {"model": "any", "prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
        models = json.load(urllib.request.urlopen(self.url + "/v1/models"))
        body["model"] = models["data"][0]["id"]
        request = urllib.request.Request(self.url + "/v1/completions", json.dumps(body).encode(),
                                         {"content-type": "application/json"})
        used = self.processor_seconds()
        begin = time.monotonic()
        answer = json.load(urllib.request.urlopen(request, timeout=600))
        took = time.monotonic() - begin
        busiest = max(after - before for before, after in zip(used, self.processor_seconds()))
        return took, busiest, answer["choices"][0]["text"]

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--build", default="out/release")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device-kv", default="512MiB")
    parser.add_argument("--vocab", type=int, default=40000, help="ids of prompts are drawn below this")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the clusters too
    draw = random.Random(1)
    clusters = {ranks: Cluster(args, ranks) for ranks in (1, args.ranks)}
    took, busy = {ranks: [] for ranks in clusters}, {ranks: [] for ranks in clusters}
    try:
        for cluster in clusters.values():  # steps of every size are learned once
            cluster.ask([draw.randrange(100, args.vocab) for _ in range(min(2000, args.tokens))])
        for number in range(args.rounds):
            prompt = [draw.randrange(100, args.vocab) for _ in range(args.tokens)]
            texts = set()
            for ranks in sorted(clusters, reverse=number % 2 == 1):
                seconds, busiest, text = clusters[ranks].ask(prompt)
                took[ranks].append(seconds)
                busy[ranks].append(busiest)
                texts.add(text)
            assert len(texts) == 1, f"the answers differ: {texts}"
            print(f"round {number + 1}: " + ", ".join(f"{ranks} rank(s) {took[ranks][-1]:.2f} s, busiest {busy[ranks][-1]:.2f} s"
                                                    for ranks in clusters) + f", load {os.getloadavg()[0]:.1f}", flush=True)
    finally:
        for cluster in clusters.values():
            cluster.stop()
    for what, times in (("clock", took), ("processor of the busiest rank", busy)):
        one, several = statistics.median(times[1]), statistics.median(times[args.ranks])
        ratios = sorted(a / b for a, b in zip(times[1], times[args.ranks]))
        print(f"{what}, median of {args.rounds} rounds: 1 rank {one:.2f} s ({args.tokens / one:.0f} tok/s), {args.ranks} ranks "
              f"{several:.2f} s ({args.tokens / several:.0f} tok/s): {one / several:.2f} times; by round {ratios[0]:.2f} to "
              f"{ratios[-1]:.2f}; shortest {min(times[1]):.2f} and {min(times[args.ranks]):.2f} s")


if __name__ == "__main__":
    main()
